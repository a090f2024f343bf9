//! Rules of discounts: how much a coupon takes off an order, and how that is divided among the lines.

use contract::ids::ProductId;
use contract::money::{Currency, KRW};
use serde::{Deserialize, Serialize};

use crate::coupon::{Discount, DiscountKind, Terms};

/// A line of an order: all of its units together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    pub product: ProductId,
    pub amount: i64,
}

/// What one line costs less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineDiscount {
    pub product: ProductId,
    pub discount: i64,
}

/// Why a coupon takes nothing off an order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotApplicable {
    #[error("The coupon is in another currency than the order.")]
    Currency,
    #[error("The coupon applies to none of these products.")]
    Products,
    #[error("The products that the coupon applies to must cost at least {minimum} together; they cost {amount}.")]
    BelowMinimum { minimum: i64, amount: i64 },
    #[error("The coupon would take nothing off this order.")]
    Nothing,
}

/// What each line costs less, in the order of `lines`. The sum is at least 1 and less than what the coupon's products cost.
///
/// The amounts of all lines together must fit 64 bits.
pub fn discounts(terms: &Terms, currency: &str, lines: &[Line]) -> Result<Vec<LineDiscount>, NotApplicable> {
    let same_currency = match terms.currency {
        Currency::Krw => currency == KRW,
    };
    if !same_currency {
        return Err(NotApplicable::Currency);
    }
    let is_eligible = |line: &Line| terms.products.is_empty() || terms.products.contains(&line.product);
    if !lines.iter().any(is_eligible) {
        return Err(NotApplicable::Products);
    }
    let eligible: Vec<i64> = lines.iter().map(|line| if is_eligible(line) { line.amount } else { 0 }).collect();
    let amount: i64 = eligible.iter().sum();
    if amount < terms.minimum_amount {
        return Err(NotApplicable::BelowMinimum { minimum: terms.minimum_amount, amount });
    }
    let Discount { kind, value } = terms.discount;
    let full = match kind {
        DiscountKind::Fixed => value,
        DiscountKind::Percent => part(amount, value, 100).0,
    };
    let discount = terms.maximum_discount.map_or(full, |max| full.min(max));
    if !(1..amount).contains(&discount) {
        return Err(NotApplicable::Nothing);
    }
    let shares = divide(discount, &eligible);
    Ok(lines.iter().zip(shares).map(|(line, share)| LineDiscount { product: line.product, discount: share }).collect())
}

/// Divides `discount` in proportion to `amounts`, whose sum is greater: rounded down, and what is left goes one by one to
/// the largest remainders, the first line first among equal ones.
fn divide(discount: i64, amounts: &[i64]) -> Vec<i64> {
    let sum: i64 = amounts.iter().sum();
    let (mut shares, remainders): (Vec<i64>, Vec<i64>) =
        amounts.iter().map(|amount| part(*amount, discount, sum)).unzip();
    let left = discount - shares.iter().sum::<i64>();
    let mut places: Vec<usize> = (0..amounts.len()).collect();
    places.sort_by_key(|place| std::cmp::Reverse(remainders[*place]));
    for place in places.into_iter().take(usize::try_from(left).unwrap_or_default()) {
        shares[place] += 1;
    }
    shares
}

/// `amount * times / by`, rounded down, and what is left of it. Neither is greater than the greatest of `amount`, `by`.
fn part(amount: i64, times: i64, by: i64) -> (i64, i64) {
    let product = i128::from(amount) * i128::from(times);
    let by = i128::from(by);
    ((product / by) as i64, (product % by) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn product(n: usize) -> ProductId {
        Uuid::from_u128(n as u128).into()
    }

    fn lines(amounts: &[i64]) -> Vec<Line> {
        amounts.iter().enumerate().map(|(n, amount)| Line { product: product(n), amount: *amount }).collect()
    }

    fn terms(kind: DiscountKind, value: i64) -> Terms {
        let discount = Discount { kind, value };
        let minimum_amount = if kind == DiscountKind::Fixed { value + 1 } else { 0 };
        let (currency, products) = (Currency::Krw, Vec::new());
        Terms { discount, currency, minimum_amount, maximum_discount: None, products, restored_on_refund: true }
    }

    fn taken_off(terms: &Terms, amounts: &[i64]) -> Result<Vec<i64>, NotApplicable> {
        let discounts = discounts(terms, KRW, &lines(amounts))?;
        Ok(discounts.into_iter().map(|line| line.discount).collect())
    }

    #[test]
    fn a_discount_is_divided_by_largest_remainder() {
        use DiscountKind::{Fixed, Percent};
        assert_eq!(taken_off(&terms(Fixed, 100), &[100, 100, 100]), Ok(vec![34, 33, 33]));
        assert_eq!(taken_off(&terms(Fixed, 5000), &[129_000, 19_000]), Ok(vec![4358, 642]));
        assert_eq!(taken_off(&terms(Percent, 7), &[999, 0, 1]), Ok(vec![70, 0, 0]));
        assert_eq!(taken_off(&terms(Percent, 33), &[100]), Ok(vec![33]));
        let capped = Terms { maximum_discount: Some(10), ..terms(Percent, 50) };
        assert_eq!(taken_off(&capped, &[500, 500]), Ok(vec![5, 5]));
    }

    #[test]
    fn a_coupon_looks_at_its_own_products_alone() {
        let own = Terms { products: vec![product(1)], minimum_amount: 300, ..terms(DiscountKind::Percent, 10) };
        assert_eq!(taken_off(&own, &[1000, 300]), Ok(vec![0, 30]));
        let below = NotApplicable::BelowMinimum { minimum: 300, amount: 299 };
        assert_eq!(taken_off(&own, &[1000, 299]), Err(below));
        assert_eq!(taken_off(&own, &[1000]), Err(NotApplicable::Products));
    }

    #[test]
    fn what_takes_nothing_off_is_refused() {
        assert_eq!(taken_off(&terms(DiscountKind::Percent, 1), &[99]), Err(NotApplicable::Nothing));
        let fixed = terms(DiscountKind::Fixed, 100);
        assert_eq!(taken_off(&fixed, &[100]), Err(NotApplicable::BelowMinimum { minimum: 101, amount: 100 }));
        let foreign = discounts(&fixed, "USD", &lines(&[1000]));
        assert_eq!(foreign, Err(NotApplicable::Currency));
    }

    proptest! {
        #![proptest_config(testkit::properties::quick(2000))]

        #[test]
        fn line_discounts_add_up_and_leave_something_to_pay(
            amounts in prop::collection::vec(0..1_000_000_000_000_i64, 1..8),
            fixed in any::<bool>(),
            percent in 1..100_i64,
            amount in 1..2_000_000_000_000_i64,
            maximum in prop::option::of(1..1_000_000_000_i64),
            restricted in any::<bool>(),
        ) {
            let base = if fixed { terms(DiscountKind::Fixed, amount) } else { terms(DiscountKind::Percent, percent) };
            let products = if restricted { vec![product(0), product(2), product(9)] } else { Vec::new() };
            let terms = Terms { maximum_discount: maximum, products, ..base };
            let own = |n: &usize| !restricted || [0, 2].contains(n);
            let eligible: i64 = (0..amounts.len()).filter(own).map(|n| amounts[n]).sum();
            let full = if fixed { amount } else { (i128::from(eligible) * i128::from(percent) / 100) as i64 };
            let expected = maximum.map_or(full, |max| max.min(full));
            match taken_off(&terms, &amounts) {
                Ok(shares) => {
                    prop_assert_eq!(shares.iter().sum::<i64>(), expected);
                    prop_assert!(expected < eligible);
                    for (n, share) in shares.iter().enumerate() {
                        prop_assert!((0..=amounts[n]).contains(share));
                        prop_assert!(own(&n) || *share == 0);
                        // Rounded down or up, and no further.
                        if own(&n) {
                            let exact = i128::from(expected) * i128::from(amounts[n]);
                            let distance = exact - i128::from(*share) * i128::from(eligible);
                            prop_assert!(distance.abs() < i128::from(eligible));
                        }
                    }
                }
                Err(NotApplicable::BelowMinimum { .. }) => prop_assert!(eligible < terms.minimum_amount),
                Err(NotApplicable::Nothing) => prop_assert_eq!(expected, 0),
                Err(other) => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
