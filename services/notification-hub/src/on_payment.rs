//! Reactions to payments: customers are told what became of their money, operators where a payment fails or stays
//! unknown.

use common::Result;
use common::db::Tx;
use common::inbox::{Handler, Received};
use contract::events::{PaymentFailed, PaymentRefunded, PaymentUnknown};

use crate::{App, payment_failed, payment_refunded, payment_unknown};

impl Handler<PaymentFailed> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<PaymentFailed>]) -> Result<()> {
        self.create_notifications(tx, events, payment_failed::draft).await
    }
}

impl Handler<PaymentUnknown> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<PaymentUnknown>]) -> Result<()> {
        self.create_notifications(tx, events, payment_unknown::draft).await
    }
}

impl Handler<PaymentRefunded> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<PaymentRefunded>]) -> Result<()> {
        self.create_notifications(tx, events, payment_refunded::draft).await
    }
}
