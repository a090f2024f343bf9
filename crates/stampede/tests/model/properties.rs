//! What must hold in every state, what must hold once nothing can happen any more, and what must be possible at all.

use coupon::redemption::RedemptionState as Redeemed;
use inventory::hold::HoldState;
use order::status::Status as OrderStatus;
use payment::payment::Status as PaymentStatus;
use stateright::Property;

use crate::coupons::is_in_the_way;
use crate::protocol::Protocol;
use crate::state::{OrderRow, RedemptionRow, Refund, State};

type Condition = fn(&Protocol, &State) -> bool;

const ALWAYS: [(&str, Condition); 18] = [
    ("stock conserves", stock_conserves),
    ("a paid order has its unit, or its money is on the way back", paid_has_its_unit),
    ("a coupon is in one order", |_, state| {
        let rows = state.redemptions.iter().zip(state.now);
        rows.filter(|(row, now)| row.as_ref().is_some_and(|row| is_in_the_way(row, *now))).count() <= 1
    }),
    ("a paid order has its coupon, or its money is on the way back", paid_has_its_coupon),
    ("nobody needs help", |_, state| !state.stuck),
    ("an order is placed once", |_, state| orders(state).all(|row| row.placed <= 1)),
    ("an authorisation is captured once", captured_once),
    ("money is asked for only while unit and order are reserved", asked_while_reserved),
    ("money that was taken is known of or being found out", taken_is_known),
    ("no more is given back than was taken", |_, state| {
        state.authorisations.iter().all(|book| book.refunds <= book.captures)
    }),
    ("at rest: no payment is open and nothing is owed", nothing_open),
    ("at rest: no order waits, none is reserved", |model, state| {
        !model.is_at_rest(state) || orders(state).all(|row| is_final(row) && row.reserved.is_none())
    }),
    ("at rest: no unit is held or pinned", |model, state| !model.is_at_rest(state) || state.held == 0),
    ("at rest: no coupon is reserved or pinned", |model, state| {
        let is_kept = |row: &RedemptionRow| matches!(row.state.0, Redeemed::Reserved | Redeemed::Pinned);
        !model.is_at_rest(state) || !state.redemptions.iter().flatten().any(is_kept)
    }),
    ("at rest: a unit is sold if and only if its order is paid", sold_is_paid),
    ("at rest: a coupon is redeemed if and only if its order is paid", redeemed_is_paid),
    ("at rest: the provider has the money of the paid orders and no other", money_balances),
    ("at rest: a paid order was given up only at its buyer's wish", given_up_by_wish),
];

const SOMETIMES: [(&str, Condition); 18] = [
    ("paid in time", |model, state| rests(model, state, OrderStatus::Paid, |row| !row.paid_late)),
    ("honoured late", |model, state| rests(model, state, OrderStatus::Paid, |row| row.paid_late)),
    ("refunded late", refunded_late),
    ("declined, then paid", declined_then_paid),
    ("declined when the time was up, then paid", |model, state| {
        // Only such a decline moves an order's end.
        declined_then_paid(model, state) && state.orders[0].as_ref().is_some_and(|row| row.expires > 1)
    }),
    ("the buyer cancels before it is paid", |model, state| rests(model, state, OrderStatus::Cancelled, |_| true)),
    ("the buyer cancels what is paid", |model, state| {
        rests(model, state, OrderStatus::Refunded, |row| row.refund_wanted)
    }),
    ("the buyer cancels the payment", |model, state| {
        state.left.regrets < model.budget.regrets && rests(model, state, OrderStatus::Refunded, |row| row.refund_wanted)
    }),
    ("nobody pays in time", |model, state| rests(model, state, OrderStatus::Expired, |_| true)),
    ("the unit goes to the second order", |model, state| {
        state.orders[1].as_ref().is_some_and(|row| row.status.0 == OrderStatus::Paid) && model.is_at_rest(state)
    }),
    ("the coupon goes to the second order", |model, state| {
        let is_redeemed = |row: &RedemptionRow| row.state.0 == Redeemed::Confirmed;
        state.redemptions[1].as_ref().is_some_and(is_redeemed) && model.is_at_rest(state)
    }),
    ("refunded late, for the coupon is used", |model, state| {
        // There are units for both.
        refunded_late(model, state) && state.redemptions[1].is_some() && model.units > 1
    }),
    ("undone", |model, state| {
        let is_undone = state.payments.iter().any(|row| row.undone && row.status.0 == PaymentStatus::Failed);
        let is_back = state.authorisations.iter().any(|book| book.captures > 0 && book.refunds == book.captures);
        is_undone && is_back && rests(model, state, OrderStatus::Expired, |_| true)
    }),
    ("paid after somebody had to look", |model, state| {
        state.left.reviews < model.budget.reviews && rests(model, state, OrderStatus::Paid, |_| true)
    }),
    ("paid although payment was killed", |model, state| {
        state.left.crashes < model.budget.crashes && rests(model, state, OrderStatus::Paid, |_| true)
    }),
    ("paid although order was killed", |model, state| paid_despite(model, state, 0)),
    ("paid although inventory was killed", |model, state| paid_despite(model, state, 1)),
    ("paid although the provider did not answer", |model, state| paid_despite(model, state, 2)),
];

pub fn properties() -> Vec<Property<Protocol>> {
    let always = ALWAYS.into_iter().map(|(name, condition)| Property::always(name, condition));
    let sometimes = SOMETIMES.into_iter().map(|(name, condition)| Property::sometimes(name, condition));
    always.chain(sometimes).collect()
}

fn orders(state: &State) -> impl Iterator<Item = &OrderRow> {
    state.orders.iter().flatten()
}

fn is_final(row: &OrderRow) -> bool {
    match row.status.0 {
        OrderStatus::Paid | OrderStatus::Refunded | OrderStatus::Cancelled | OrderStatus::Expired => true,
        OrderStatus::Created | OrderStatus::PendingPayment | OrderStatus::RefundPending => false,
    }
}

fn stock_conserves(model: &Protocol, state: &State) -> bool {
    let in_state = |wanted: &[HoldState]| {
        let holds = state.holds.iter().flatten().filter(|hold| wanted.contains(&hold.state.0));
        i8::try_from(holds.count()).expect("two holds")
    };
    (0..=state.on_hand).contains(&state.held)
        && state.held == in_state(&[HoldState::Held, HoldState::Pinned])
        && state.on_hand + in_state(&[HoldState::Confirmed]) == model.units
}

fn paid_has_its_unit(_: &Protocol, state: &State) -> bool {
    state.orders.iter().zip(&state.holds).all(|(order, hold)| {
        let (Some(order), Some(hold)) = (order, hold) else { return true };
        let has_unit = matches!(hold.state.0, HoldState::Held | HoldState::Pinned | HoldState::Confirmed);
        order.status.0 != OrderStatus::Paid || has_unit
    })
}

fn paid_has_its_coupon(_: &Protocol, state: &State) -> bool {
    state.orders.iter().zip(&state.redemptions).all(|(order, redemption)| {
        let (Some(order), Some(redemption)) = (order, redemption) else { return true };
        let has_coupon = matches!(redemption.state.0, Redeemed::Reserved | Redeemed::Pinned | Redeemed::Confirmed);
        order.status.0 != OrderStatus::Paid || has_coupon
    })
}

fn redeemed_is_paid(model: &Protocol, state: &State) -> bool {
    let agrees = state.orders.iter().zip(&state.redemptions).all(|(order, redemption)| {
        let (Some(order), Some(redemption)) = (order, redemption) else { return true };
        match order.status.0 {
            OrderStatus::Paid => redemption.state.0 == Redeemed::Confirmed,
            OrderStatus::Refunded => redemption.state.0 == Redeemed::Restored,
            _ => matches!(redemption.state.0, Redeemed::Released | Redeemed::Expired),
        }
    });
    agrees || !model.is_at_rest(state)
}

fn captured_once(_: &Protocol, state: &State) -> bool {
    state.authorisations.iter().all(|book| book.captures <= 1)
}

/// Except by somebody who was so slow that the resolver had given him up.
fn asked_while_reserved(model: &Protocol, state: &State) -> bool {
    was_given_up(model, state) || state.authorisations.iter().all(|book| !book.unreserved)
}

/// Except by somebody who was so slow that the resolver had given him up.
fn taken_is_known(model: &Protocol, state: &State) -> bool {
    was_given_up(model, state)
        || model.clicks.iter().all(|click| {
            let book = &state.authorisations[usize::from(click.authorisation)];
            let row = &state.payments[usize::from(click.payment)];
            book.captures <= book.refunds || row.status.0.is_open() || row.status.0.is_captured()
        })
}

fn was_given_up(model: &Protocol, state: &State) -> bool {
    state.left.zombies < model.budget.zombies
}

fn nothing_open(model: &Protocol, state: &State) -> bool {
    let is_settled =
        state.payments.iter().all(|row| !row.status.0.is_open() && row.steps.is_empty() && row.refund != Refund::Owed);
    is_settled || !model.is_at_rest(state)
}

fn sold_is_paid(model: &Protocol, state: &State) -> bool {
    let agrees = state.orders.iter().zip(&state.holds).all(|(order, hold)| {
        let (Some(order), Some(hold)) = (order, hold) else { return true };
        match order.status.0 {
            OrderStatus::Paid => hold.state.0 == HoldState::Confirmed,
            OrderStatus::Refunded => hold.state.0 == HoldState::Returned,
            _ => matches!(hold.state.0, HoldState::Released | HoldState::Expired),
        }
    });
    agrees || !model.is_at_rest(state)
}

/// Captured minus given back is what the paid orders cost, for each payment, and its row says so too.
fn money_balances(model: &Protocol, state: &State) -> bool {
    let balances = (0u8..).zip(&state.payments).all(|(payment, row)| {
        let order = state.orders[model.order_of(payment)].as_ref();
        let has_paid = order.is_some_and(|order| order.status.0 == OrderStatus::Paid && order.paid_by == Some(payment));
        let is_of_payment = |authorisation: usize| {
            model.clicks.iter().any(|c| c.payment == payment && usize::from(c.authorisation) == authorisation)
        };
        let books = state.authorisations.iter().enumerate().filter(|(index, _)| is_of_payment(*index));
        let kept: i32 = books.map(|(_, book)| i32::from(book.captures) - i32::from(book.refunds)).sum();
        kept == i32::from(has_paid) && (row.status.0 == PaymentStatus::Paid) == has_paid
    });
    balances || !model.is_at_rest(state)
}

/// Two who settle what one payment owes may see different stock: one honours it, the other gives the money back.
fn given_up_by_wish(model: &Protocol, state: &State) -> bool {
    if model.settlers > 1 {
        return true;
    }
    orders(state).all(|row| row.status.0 != OrderStatus::Refunded || row.refund_wanted) || !model.is_at_rest(state)
}

fn rests(model: &Protocol, state: &State, status: OrderStatus, is_wanted: fn(&OrderRow) -> bool) -> bool {
    let first = state.orders[0].as_ref();
    first.is_some_and(|row| row.status.0 == status && is_wanted(row)) && model.is_at_rest(state)
}

fn refunded_late(model: &Protocol, state: &State) -> bool {
    let has_ended = |row: &OrderRow| matches!(row.status.0, OrderStatus::Expired | OrderStatus::Cancelled);
    state.orders[0].as_ref().is_some_and(has_ended)
        && state.payments[0].status.0 == PaymentStatus::Refunded
        && model.is_at_rest(state)
}

fn declined_then_paid(model: &Protocol, state: &State) -> bool {
    state.authorisations.iter().any(|book| book.declined)
        && rests(model, state, OrderStatus::Paid, |row| !row.paid_late)
}

fn paid_despite(model: &Protocol, state: &State, role: usize) -> bool {
    state.left.lost_calls[role] < model.budget.lost_calls[role] && rests(model, state, OrderStatus::Paid, |_| true)
}
