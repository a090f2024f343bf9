alter table notifications
    -- W3C traceparent of the event or the request that led to it, so that its deliveries are in that trace. Null: none came
    -- with it, or it is one of many that a restock round leads to.
    add column traceparent text,
    -- The rows that are there have none, so there is nothing to validate.
    add constraint notifications_traceparent check (length(traceparent) = 55) not valid;
