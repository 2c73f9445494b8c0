SELECT c.id, (SELECT sum(o.total) FROM orders o WHERE o.customer_id = c.id) AS spent
FROM customers c
WHERE c.city = :city
ORDER BY spent DESC, c.id LIMIT 5
