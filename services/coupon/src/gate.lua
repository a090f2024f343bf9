-- Stands before the scripts of the gate. Of one coupon:
--   KEYS[1] coupon:{id}:meta     hash: epoch, opens and closes (milliseconds), state (open or closed), kept_until (milliseconds),
--                                undone (how many takes were undone)
--   KEYS[2] coupon:{id}:stock    how many may still be taken
--   KEYS[3] coupon:{id}:issued   hash: user -> '-' if PostgreSQL has the issue, else the entry of the journal
--   KEYS[4] coupon:{id}:journal  stream: the takes that PostgreSQL may not have yet
-- Redis does not roll a failed script back. So each script checks first, and then only writes what cannot fail.
local STORED = '-'
