SELECT count(*) AS orders, sum(total) AS total FROM orders
WHERE date(placed) = :day
