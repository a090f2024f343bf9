alter table notifications
    drop column traceparent;
