//! What comparing copies finds, and who is believed where they differ.
//!
//! A page is as most of those in sync have it, the primary included: more than half of all that are in sync, whether they answer or
//! not. A copy that cannot be read is damaged for certain and is no vote, so of two copies the one that can be read is believed. Where
//! there is no such majority nobody is.

use super::digest::Digest;
use bartender_pm::mutant;
use std::collections::{BTreeMap, BTreeSet};

/// So many findings of a kind are listed; more are counted only.
pub(super) const LISTED: usize = 1000;

/// A page that was repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// Whose copy was damaged.
    pub member: String,
    /// Where in the home.
    pub offset: u64,
    /// What it held, as a digest; none if it could not be read.
    pub was: Option<u128>,
    /// What it holds now.
    pub is: u128,
}

/// A page of which copies differ, and no majority says what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undecided {
    /// Where in the home.
    pub offset: u64,
    /// The digest of each copy that answered; none if it could not be read.
    pub copies: Vec<(String, Option<u128>)>,
}

/// A page that is known to be damaged, and could not be repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrepaired {
    /// Whose copy.
    pub member: String,
    /// Where in the home.
    pub offset: u64,
    /// Why not.
    pub why: String,
}

/// What a pass found. Of each kind at most 1000 pages are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scrubbed {
    /// Bytes of home that were compared, on everybody in sync.
    pub compared: u64,
    /// Bytes that were not: somebody did not answer, or homes moved on all the time.
    pub skipped: u64,
    /// Whose copies were compared, this machine's too.
    pub members: BTreeSet<String>,
    /// Damaged pages that were repaired.
    pub repaired: Vec<Repaired>,
    /// Pages of which nobody can say what they should be. Nothing was changed there.
    pub undecided: Vec<Undecided>,
    /// Damaged pages that could not be repaired.
    pub unrepaired: Vec<Unrepaired>,
    /// Pages of this machine's home that were repaired, and of which the program may still see a damaged private copy, until
    /// the region is opened again or its view trimmed.
    pub unhealed: Vec<u64>,
    /// How many pages these lists would have.
    pub totals: Scrubs,
}

impl Scrubbed {
    /// Whether everything was compared, and is the same everywhere now.
    pub fn is_sound(&self) -> bool {
        let Scrubs {
            undecided,
            unrepaired,
            ..
        } = self.totals;
        self.skipped == 0 && undecided + unrepaired == 0 && self.unhealed.is_empty()
    }
}

/// Counts of all passes of a reign.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scrubs {
    /// Passes that came to the end of the home.
    pub passes: u64,
    /// Bytes of home compared.
    pub compared: u64,
    /// Pages repaired.
    pub repaired: u64,
    /// Pages found different without a majority.
    pub undecided: u64,
    /// Pages found damaged that could not be repaired.
    pub unrepaired: u64,
}

impl Scrubs {
    pub(super) fn add(&mut self, more: Scrubs) {
        self.passes += more.passes;
        self.compared += more.compared;
        self.repaired += more.repaired;
        self.undecided += more.undecided;
        self.unrepaired += more.unrepaired;
    }
}

/// Who is believed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trust<'a> {
    Majority,
    Member(&'a str),
}

/// What is to be done about a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Same,
    /// It should be this; those are not.
    Right(u128, Vec<String>),
    Undecided,
}

/// Judges the copies of a page of which `in_sync` have one.
pub(super) fn judge(
    copies: &BTreeMap<String, Digest>,
    in_sync: usize,
    trust: Trust<'_>,
) -> Verdict {
    let readable: Vec<u128> = copies.values().filter_map(|digest| *digest).collect();
    let unreadable = copies.len() - readable.len();
    let votes = |digest: u128| readable.iter().filter(|&&other| other == digest).count();
    let right = match trust {
        Trust::Member(name) => copies.get(name).copied().flatten(),
        Trust::Majority if mutant::is("scrub_backwards") => {
            readable.iter().copied().min_by_key(|&digest| votes(digest))
        }
        Trust::Majority => readable
            .iter()
            .copied()
            .find(|&digest| 2 * votes(digest) > in_sync - unreadable),
    };
    let Some(right) = right else {
        return Verdict::Undecided;
    };
    let wrong: Vec<String> = copies
        .iter()
        .filter(|(_, digest)| **digest != Some(right))
        .map(|(name, _)| name.clone())
        .collect();
    match wrong[..] {
        [] => Verdict::Same,
        _ => Verdict::Right(right, wrong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(copies: &[Digest], in_sync: usize, trust: Trust<'_>) -> Verdict {
        let named = copies.iter().enumerate();
        let copies = named
            .map(|(i, digest)| (format!("m{i}"), *digest))
            .collect();
        judge(&copies, in_sync, trust)
    }

    fn right(digest: u128, wrong: &[usize]) -> Verdict {
        Verdict::Right(digest, wrong.iter().map(|i| format!("m{i}")).collect())
    }

    #[test]
    fn more_than_half_of_those_in_sync_are_believed_and_nobody_else() {
        let by = |copies: &[Digest], in_sync| verdict(copies, in_sync, Trust::Majority);
        assert_eq!(by(&[Some(1), Some(1), Some(1)], 3), Verdict::Same);
        assert_eq!(by(&[Some(2), Some(1), Some(1)], 3), right(1, &[0]));
        assert_eq!(by(&[Some(1), Some(2)], 2), Verdict::Undecided);
        assert_eq!(by(&[Some(1), Some(2), Some(3)], 3), Verdict::Undecided);
        // One does not answer.
        assert_eq!(by(&[Some(1), Some(2)], 3), Verdict::Undecided);
        assert_eq!(by(&[Some(1), Some(1), Some(2)], 4), Verdict::Undecided);
        assert_eq!(by(&[Some(1), Some(1), Some(1), Some(2)], 5), right(1, &[3]));
        // What cannot be read is damaged for certain.
        assert_eq!(by(&[None, Some(1)], 2), right(1, &[0]));
        assert_eq!(by(&[None, Some(1), Some(2)], 3), Verdict::Undecided);
        assert_eq!(by(&[None, Some(1)], 3), Verdict::Undecided);
        assert_eq!(by(&[None, None], 2), Verdict::Undecided);
    }

    #[test]
    fn who_is_named_is_believed_alone() {
        let by = |copies: &[Digest]| verdict(copies, 3, Trust::Member("m1"));
        assert_eq!(by(&[Some(1), Some(2), Some(1)]), right(2, &[0, 2]));
        assert_eq!(by(&[Some(1), None, Some(1)]), Verdict::Undecided);
        assert_eq!(by(&[Some(1)]), Verdict::Undecided);
    }
}
