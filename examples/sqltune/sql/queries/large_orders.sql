SELECT status, count(*), sum(total) FROM orders
WHERE total >= :least
GROUP BY status ORDER BY status
