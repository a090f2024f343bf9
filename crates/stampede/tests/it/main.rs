//! The whole system through its own doors: HTTP, gRPC, Kafka and read-only SQL. Each module is named after the flow it
//! tests, and would still pass if the code behind the doors were replaced.

mod ledger;
mod payer;
mod readme;
mod site;

mod account;
mod archive;
mod asyncapi;
mod audit;
mod away;
mod bad_input;
mod bench_commands;
mod commands;
mod crash_archiving;
mod crash_coupons;
mod crash_late;
mod crash_paying;
mod crash_points;
mod deployment;
mod doctor;
mod edge;
mod faults;
mod gateway;
mod hold;
mod http_samples;
mod manifest;
mod metrics;
mod notifications;
mod openapi;
mod openings;
mod pay;
mod pay_in_time;
mod pay_late;
mod pay_unknown;
mod place_order;
mod replicas;
mod seats;
mod settings;
mod sql;
mod stock;
mod streaming;
mod tidy;
mod tls;
mod trace;
mod traces;
