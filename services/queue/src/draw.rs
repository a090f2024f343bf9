//! The draw: who came before the opening is put in an order that nobody chose and that anybody can check.
//!
//! The seed is made with the sale event, and its hash is published then. A ticket's rank is HMAC-SHA256 of its id under the
//! seed. The seed is published after the draw.

use aws_lc_rs::hmac;
use contract::ids::TicketId;

/// Lowest rank first.
pub fn draw_order(seed: &[u8], tickets: &[TicketId]) -> Vec<TicketId> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, seed);
    let mut ranked: Vec<(Vec<u8>, TicketId)> =
        tickets.iter().map(|ticket| (hmac::sign(&key, ticket.as_bytes()).as_ref().to_vec(), *ticket)).collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, ticket)| ticket).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tickets(count: u32) -> Vec<TicketId> {
        (0..count).map(|number| TicketId::derive(&[&number.to_be_bytes()])).collect()
    }

    #[test]
    fn the_order_is_that_of_a_known_example() {
        // HMAC-SHA256 with a key of 32 bytes of 1 over the 16 bytes of each id, computed with Python's hmac.
        let tickets = |numbers: [u128; 4]| numbers.map(|number| TicketId::from(uuid::Uuid::from_u128(number)));
        assert_eq!(draw_order(&[1; 32], &tickets([1, 2, 3, 4])), tickets([2, 1, 4, 3]));
    }

    proptest! {
        #![proptest_config(testkit::properties::quick(64))]

        /// Who came first does not matter, and nobody is lost.
        #[test]
        fn the_order_depends_on_the_seed_alone(seed in any::<[u8; 32]>(), count in 0..50_u32, turn in 0..50_usize) {
            let tickets = tickets(count);
            let mut turned = tickets.clone();
            turned.rotate_left(turn % tickets.len().max(1));
            let order = draw_order(&seed, &tickets);
            prop_assert_eq!(&order, &draw_order(&seed, &turned));
            let mut sorted = order.clone();
            sorted.sort_unstable();
            let mut all = tickets.clone();
            all.sort_unstable();
            prop_assert_eq!(sorted, all);
        }

        #[test]
        fn another_seed_gives_another_order(seed in any::<[u8; 32]>()) {
            let mut other = seed;
            other[0] ^= 1;
            prop_assert_ne!(draw_order(&seed, &tickets(50)), draw_order(&other, &tickets(50)));
        }
    }
}
