SELECT o.id AS id, o.placed AS placed FROM orders o JOIN customers c ON c.id = o.customer_id
WHERE c.email = :text OR o.reference = :text
ORDER BY id
