SELECT id, placed, total FROM orders
WHERE customer_id = :customer
ORDER BY placed DESC LIMIT 10
