drop table psp_webhooks;
drop table refunds;
drop table payment_attempt;
drop table payments;
