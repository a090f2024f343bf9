-- Raises the epoch of a coupon, and reads what its gate has to know. It waits for batches of issues that hold the row: what they
-- have stored is counted.
-- $1 coupon id
update coupons
   set epoch = epoch + 1
 where id = $1::uuid
returning epoch, total - issued as left, starts_at, expires_at, closed
