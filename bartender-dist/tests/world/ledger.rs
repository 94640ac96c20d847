//! What was done, as those saw it who did it, and what may be seen of it.
//!
//! The region holds words. A transaction draws a number, sets word 0 to it, word 1 to the number it found there, and
//! some other words to its own. So the region's state is a chain of transactions, and who has one state has all that
//! led to it. For such an object these rules are what linearizability means:
//!
//! 1. a state that is read is exactly what its transaction left;
//! 2. what was answered before a read began is in what it read;
//! 3. what an earlier read returned is in what a later one reads;
//! 4. what was read is never undone: of two states that were read or answered, one is in the other.

use std::collections::BTreeMap;

pub(crate) const WORDS: usize = 32;

pub(crate) type Words = Vec<u64>;

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// What each transaction left, its predecessor, and how many there are before it.
    states: BTreeMap<u64, (Words, u64, u64)>,
    next: u64,
    /// The longest chain of which anybody was told: every later read has it.
    told: u64,
    pub(crate) answered: u64,
    pub(crate) reads: u64,
    /// Transactions for which there was no space.
    pub(crate) refused: u64,
    pub(crate) errors: Vec<String>,
}

impl Ledger {
    pub(crate) fn new() -> Ledger {
        Ledger {
            states: BTreeMap::from([(0, (vec![0; WORDS], 0, 0))]),
            ..Ledger::default()
        }
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A transaction is on its way.
    pub(crate) fn begin(&mut self, number: u64, before: u64, words: Words) {
        let depth = match self.states.get(&before) {
            Some(state) => state.2 + 1,
            None => {
                self.errors.push(format!(
                    "transaction {number} found {before}, which nobody wrote"
                ));
                0
            }
        };
        self.states.insert(number, (words, before, depth));
    }

    /// What was told before a read or a commit begins: give it to [`told`](Self::told) when it ends.
    pub(crate) fn now(&self) -> u64 {
        self.told
    }

    /// Whether `ancestor` is in what `number` left.
    fn has(&self, number: u64, ancestor: u64) -> bool {
        let Some(&(_, _, depth)) = self.states.get(&ancestor) else {
            return false;
        };
        let mut at = number;
        while let Some(&(_, before, own)) = self.states.get(&at) {
            if own <= depth {
                return at == ancestor;
            }
            at = before;
        }
        false
    }

    /// Somebody was told that `number` is the state, having begun when `before` was the longest that was told.
    fn tell(&mut self, what: &str, number: u64, before: u64) {
        if !self.has(number, before) {
            self.errors.push(format!(
                "{what} {number}, and {before}, told before it began, is not in it"
            ));
        }
        if self.has(number, self.told) {
            self.told = number;
        } else if !self.has(self.told, number) {
            self.errors.push(format!(
                "{what} {number}, and {} was told: neither is in the other",
                self.told
            ));
        }
    }

    pub(crate) fn answered(&mut self, number: u64, before: u64) {
        self.answered += 1;
        self.tell("answered", number, before);
    }

    pub(crate) fn read(&mut self, words: &Words, before: u64) {
        self.reads += 1;
        match self.states.get(&words[0]) {
            Some(state) if state.0 == *words => self.tell("read", words[0], before),
            Some(state) => self
                .errors
                .push(format!("read a mixture: {words:?}, not {:?}", state.0)),
            None => self
                .errors
                .push(format!("read {}, which nobody wrote", words[0])),
        }
    }
}

#[test]
fn a_ledger_tells_what_is_lost_from_what_is_not() {
    let mut ledger = Ledger::new();
    let chain = |ledger: &mut Ledger, before: u64| {
        let number = ledger.draw();
        let mut words = vec![number; WORDS];
        words[1] = before;
        ledger.begin(number, before, words.clone());
        (number, words)
    };
    let (a, _) = chain(&mut ledger, 0);
    let (b, b_words) = chain(&mut ledger, a);
    ledger.answered(b, 0);
    ledger.answered(a, 0);
    ledger.read(&b_words, b);
    assert_eq!(ledger.errors, Vec::<String>::new());
    // One that was not told of, beside: another primary's.
    let (c, _) = chain(&mut ledger, a);
    ledger.answered(c, 0);
    assert_eq!(ledger.errors.len(), 1, "a split brain");
    ledger.read(&vec![0; WORDS], b);
    assert!(ledger.errors.len() > 1, "a stale read");
}
