//! What is saved of a room, and what it is built from.

use common::Result;

use super::words::Words;

/// What a room is built from.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub epoch: i64,
    pub next: i64,
    pub ceil: i64,
    pub front: i64,
    pub floor: i64,
    /// Numbers that may have been given, after the last that certainly was.
    pub hole: (i64, i64),
    /// How many administrators let in beyond the rate, and how many of them are still to come.
    pub granted: i64,
    pub extra: i64,
    pub turns: Turns,
    pub ended: Vec<i64>,
}

/// Whose turn it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turns {
    /// Passes in use, and until when, in milliseconds.
    pub active: Vec<(i64, i64)>,
    /// Offered slots that nobody has claimed yet.
    pub offered: Vec<i64>,
    /// Passed over, back again, and next.
    pub back: Vec<i64>,
}

/// A room as it is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub epoch: i64,
    pub issued: i64,
    pub front: i64,
    /// Beyond the rate.
    pub let_in: i64,
    pub turns: Turns,
}

impl Checkpoint {
    /// From the answer of the script.
    pub fn read(answer: &Words) -> Result<Checkpoint> {
        let numbers = answer.numbers_from(1)?;
        let [epoch, issued, front, let_in, passes, offers, ref seqs @ ..] = *numbers else {
            return Err(answer.unexpected());
        };
        let lists = usize::try_from(passes).ok().zip(usize::try_from(offers).ok()).and_then(|(passes, offers)| {
            let (active, others) = seqs.split_at_checked(2 * passes)?;
            Some((active, others.split_at_checked(offers)?))
        });
        let Some((active, (offered, back))) = lists else { return Err(answer.unexpected()) };
        let active = active.chunks_exact(2).map(|pass| (pass[0], pass[1])).collect();
        let turns = Turns { active, offered: offered.to_vec(), back: back.to_vec() };
        Ok(Checkpoint { epoch, issued, front, let_in, turns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Result<Checkpoint> {
        Checkpoint::read(&Words(words.split(' ').map(str::to_owned).collect()))
    }

    #[test]
    fn the_lists_of_a_checkpoint_are_told_apart() {
        let turns = Turns { active: vec![(1, 900), (2, 901)], offered: vec![3], back: vec![4, 5] };
        assert_eq!(
            read("OK 7 20 6 3 2 1 1 900 2 901 3 4 5").unwrap(),
            Checkpoint { epoch: 7, issued: 20, front: 6, let_in: 3, turns }
        );
        let empty = Checkpoint { epoch: 1, issued: 0, front: 0, let_in: 0, turns: Turns::default() };
        assert_eq!(read("OK 1 0 0 0 0 0").unwrap(), empty);
        for short in ["OK 1 0 0 0 0", "OK 1 0 0 0 1 0 1", "OK 1 0 0 0 0 2 1", "OK 1 0 0 0 -1 0", "OK 1 0 0 0 x 0"] {
            assert!(read(short).is_err(), "{short}");
        }
    }
}
