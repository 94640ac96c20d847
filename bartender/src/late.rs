//! What a transaction does at its end: steps on words that others change, too, without waiting for each other.
//!
//! A transaction that adds to a counter does not lock it: the step is noted here, and taken when the transaction commits, under
//! the counter's lock, which is held no longer than any lock is after that. So transactions that count one thing run beside each
//! other, and what the counter says is the sum of those that were committed.
//!
//! *Order.* These locks are taken last, and by rising address. Who has one waits for nothing but locks of this kind
//! at higher addresses, and for the log: nobody waits in a circle. [`crate::lock_table`] knows which locks are held so.
//!
//! *The place.* A step is noted by its address, so whatever stands there must stay there until the step is taken. It does: a
//! word that others can reach belongs to something that does not move while anybody can reach it, and the transaction keeps the locks
//! through which it got there. What the transaction itself moves, overwrites or frees it holds before, as it does with locks (rule
//! 3 of the typed interface): then the steps on it are taken at once.
//!
//! *Versions* ([`crate::rcu`]) are steps as well: the word gets its value even later, when the record is durable. Their locks are
//! ordinary ones, taken when the step is noted.
//!
//! It does not know how a word is read and written: that is [`TxRef`](crate::tx::TxRef)'s.

/// Gives back a block to which nothing refers any more, and what it owns. The second is its address.
pub(crate) type EndShared = unsafe fn(crate::tx::TxRef<'_>, *mut u8) -> crate::error::Result<()>;

/// A change of a word.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// Modulo 2^64.
    Add(u64),
    Max(u64),
    Min(u64),
    MaxSigned(i64),
    MinSigned(i64),
    And(u64),
    Or(u64),
    Xor(u64),
    Store(u64),
    /// Another version: its address, and how the one before it ends.
    Version(u64, EndShared),
    /// One owner less of the block that begins with the word; who takes it to 0 ends the block.
    Leave(EndShared),
}

impl Step {
    /// The word after the step.
    pub(crate) fn of(self, word: u64) -> u64 {
        match self {
            Step::Add(n) => word.wrapping_add(n),
            Step::Max(n) => word.max(n),
            Step::Min(n) => word.min(n),
            Step::MaxSigned(n) => (word as i64).max(n) as u64,
            Step::MinSigned(n) => (word as i64).min(n) as u64,
            Step::And(n) => word & n,
            Step::Or(n) => word | n,
            Step::Xor(n) => word ^ n,
            Step::Store(n) | Step::Version(n, _) => n,
            Step::Leave(_) => word.wrapping_sub(1),
        }
    }
}

#[derive(Debug)]
struct Op {
    addr: usize,
    step: Step,
    taken: bool,
}

/// The steps of one transaction, in order.
#[derive(Debug, Default)]
pub(crate) struct Late {
    /// Steps on words that have a lock each, and can be moved.
    words: Vec<Op>,
    /// Which of `words` were taken before the end, in that order.
    taken: Vec<usize>,
    /// Those of `words` below this index are as they were at the last mark: they are not joined with later ones.
    floor: usize,
    /// Steps on counts of owners. They lie in blocks that stay where they are as long as they have an owner, and there may
    /// be very many: those in one page have one lock.
    counts: Vec<(usize, Step)>,
    /// Counts of blocks that the transaction has made, which [say so](claimed_by) until it commits.
    claimed: Vec<usize>,
}

/// A point in the course of a transaction that can be gone back to.
#[derive(Debug)]
pub(crate) struct Mark {
    words: usize,
    taken: usize,
    floor: usize,
    counts: usize,
    claimed: usize,
}

/// A word and the next step on it, and the lock that it takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Next {
    pub(crate) lock: usize,
    pub(crate) addr: usize,
    pub(crate) step: Step,
}

/// What stands in place of the count of a block that the transaction with this context has made: others must not become
/// owners of what may never have been. No count gets so far.
pub(crate) fn claimed_by<C>(context: *const C) -> u64 {
    CLAIMED | context.addr() as u64
}

/// A count that is claimed.
pub(crate) const CLAIMED: u64 = 1 << 63;

/// Where the lock of a count is: no other lock has an odd address.
fn lock_of_count(addr: usize) -> usize {
    const PAGE: usize = 4096;
    addr & !(PAGE - 1) | 1
}

impl Late {
    pub(crate) fn is_empty(&self) -> bool {
        self.words.is_empty() && self.counts.is_empty() && self.claimed.is_empty()
    }

    /// Notes a step on the word at `addr`.
    pub(crate) fn note(&mut self, addr: usize, step: Step) {
        if let (Step::Add(n), Some(last)) = (step, self.words[self.floor..].last_mut())
            && let (Step::Add(before), false) = (&mut last.step, last.taken)
            && last.addr == addr
        {
            *before = before.wrapping_add(n);
            return;
        }
        let taken = false;
        self.words.push(Op { addr, step, taken });
    }

    /// Notes a step on the count of owners at `addr`.
    pub(crate) fn note_count(&mut self, addr: usize, step: Step) {
        self.counts.push((addr, step));
    }

    /// Notes that the count at `addr` is claimed.
    pub(crate) fn note_claim(&mut self, addr: usize) {
        self.claimed.push(addr);
    }

    /// The counts that are claimed; they are no more.
    pub(crate) fn take_claims(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.claimed)
    }

    /// How many counts are claimed.
    #[inline]
    pub(crate) fn claims(&self) -> usize {
        self.claimed.len()
    }

    /// The counts that were claimed since there were so many are no more.
    pub(crate) fn forget_claims(&mut self, left: usize) {
        self.claimed.truncate(left);
    }

    /// All steps that wait, by rising address of their lock; those on one word in order.
    pub(crate) fn waiting(&self) -> Vec<Next> {
        let words = self.words.iter().filter(|op| !op.taken);
        let words = words.map(|&Op { addr, step, .. }| (addr, addr, step));
        let counts = self.counts.iter();
        let counts = counts.map(|&(addr, step)| (lock_of_count(addr), addr, step));
        let all = words.chain(counts);
        let mut waiting: Vec<Next> = all
            .map(|(lock, addr, step)| Next { lock, addr, step })
            .collect();
        waiting.sort_by_key(|next| (next.lock, next.addr));
        waiting
    }

    /// The steps that wait for the word at `addr`, in order.
    pub(crate) fn at(&self, addr: usize) -> impl Iterator<Item = Step> {
        let words = self.words.iter();
        let here = words.filter(move |op| op.addr == addr && !op.taken);
        here.map(|op| op.step)
    }

    /// The steps that wait for the word at `addr`, in order, which wait no more.
    pub(crate) fn take(&mut self, addr: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        for (i, op) in self.words.iter_mut().enumerate() {
            if op.addr == addr && !op.taken {
                op.taken = true;
                self.taken.push(i);
                steps.push(op.step);
            }
        }
        steps
    }

    pub(crate) fn mark(&mut self) -> Mark {
        let mark = Mark {
            words: self.words.len(),
            taken: self.taken.len(),
            floor: self.floor,
            counts: self.counts.len(),
            claimed: self.claimed.len(),
        };
        self.floor = mark.words;
        mark
    }

    /// What was noted since the mark is a part of what was before.
    pub(crate) fn release(&mut self, mark: &Mark) {
        self.floor = mark.floor;
    }

    /// Forgets what was noted since the mark; what was taken since waits again.
    pub(crate) fn rollback(&mut self, mark: &Mark) {
        for i in self.taken.drain(mark.taken..) {
            self.words[i].taken = false;
        }
        self.words.truncate(mark.words);
        self.counts.truncate(mark.counts);
        self.forget_claims(mark.claimed);
        self.floor = mark.floor;
    }

    pub(crate) fn clear(&mut self) {
        const KEEP: usize = 1 << 12;
        self.words.clear();
        self.words.shrink_to(KEEP);
        self.taken.clear();
        self.taken.shrink_to(KEEP);
        self.counts.clear();
        self.counts.shrink_to(KEEP);
        self.claimed.clear();
        self.claimed.shrink_to(KEEP);
        self.floor = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(late: &Late, addr: usize) -> u64 {
        late.at(addr).fold(0, |word, step| step.of(word))
    }

    #[test]
    fn steps_on_a_word_keep_their_order_and_sums_are_one_step() {
        let mut late = Late::default();
        for n in 1..=4 {
            late.note(8, Step::Add(n));
        }
        assert_eq!(late.words.len(), 1);
        late.note(16, Step::Add(1));
        late.note(8, Step::Max(7));
        late.note(8, Step::Add(1));
        assert_eq!(sum(&late, 8), 11);
        let order: Vec<_> = late.waiting().iter().map(|next| next.addr).collect();
        assert_eq!(order, [8, 8, 8, 16]);
    }

    #[test]
    fn locks_rise_and_counts_of_a_page_have_one() {
        let mut late = Late::default();
        late.note_count(8192, Step::Add(1));
        late.note(4096, Step::Add(1));
        late.note(8200, Step::Add(1));
        late.note_count(4096 + 64, Step::Add(1));
        late.note_count(4096 + 32, Step::Add(1));
        let order = late.waiting();
        let order: Vec<_> = order.iter().map(|next| (next.lock, next.addr)).collect();
        let expected = [
            (4096, 4096),
            (4097, 4128),
            (4097, 4160),
            (8193, 8192),
            (8200, 8200),
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn what_was_taken_since_a_mark_waits_again_after_a_rollback() {
        let mut late = Late::default();
        late.note(8, Step::Add(1));
        let outer = late.mark();
        late.note(8, Step::Add(2));
        late.note_count(64, Step::Add(1));
        assert_eq!(late.take(8).len(), 2);
        late.note(8, Step::Add(4));
        let inner = late.mark();
        late.take(8);
        late.rollback(&inner);
        assert_eq!(sum(&late, 8), 4);
        late.rollback(&outer);
        assert_eq!(sum(&late, 8), 1);
        assert_eq!((late.words.len(), late.taken.len(), late.floor), (1, 0, 0));
        assert_eq!(late.waiting().len(), 1);
        let mark = late.mark();
        late.note(8, Step::Add(2));
        late.take(8);
        late.release(&mark);
        assert!(late.waiting().is_empty() && !late.is_empty());
    }
}
