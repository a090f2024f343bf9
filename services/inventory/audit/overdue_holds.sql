-- The sweep ends a hold whose time is up.
select format('hold %s is HELD although its time was up at %s', hold_id, expires_at) as offender
from {inventory}.holds
where state = 'HELD' and expires_at < now() - interval '5 seconds'
