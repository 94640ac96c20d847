//! What every backend has to do, as tests over two fabrics of one network. A backend's own test file says how its
//! pair is made and run, and [`contract!`] makes a `#[test]` of each:
//!
//! ```text
//! mod contract;
//! fn run(test: fn(contract::Pair) -> contract::Story) { /* make a pair, drive test(pair) to its end */ }
//! contract!(run);
//! ```
//!
//! The stories use no clock and no task of their own, so a simulated network may drive them with its own executor.
//! What only some backends can tell apart is left open: which of `OutOfBounds` and `Refused` a target's no becomes.
#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod limits;
pub mod memory;
pub mod stories;

use bartender_net::{Access, Boxed, Connection, Error, Fabric, MemoryRegion};
use memory::Plain;
use std::sync::Arc;

/// A test as a future.
pub type Story = Boxed<'static, ()>;

/// Two nodes of one network.
#[derive(Clone)]
pub struct Pair {
    /// The node that connects.
    pub near: Arc<dyn Fabric>,
    /// The node that listens.
    pub far: Arc<dyn Fabric>,
    /// Where it can listen; any port, where there are ports.
    pub address: String,
}

impl Pair {
    /// A connection: the end of `near`, the end of `far`.
    pub async fn connect(&self) -> (Connection, Connection) {
        let listener = self.far.listen(&self.address).await.unwrap();
        let address = listener.address();
        let (near, far) = both(self.near.connect(&address), listener.accept()).await;
        (near.unwrap(), far.unwrap())
    }

    /// Memory of `far`'s with all rights.
    pub fn memory(&self, len: usize) -> (Arc<Plain>, MemoryRegion) {
        let memory = Plain::new(len);
        let region = self.far.register(memory.clone(), Access::ALL).unwrap();
        (memory, region)
    }
}

/// Waits for both.
pub async fn both<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    let (mut left, mut right) = (None, None);
    std::future::poll_fn(|context| {
        if left.is_none()
            && let std::task::Poll::Ready(value) = a.as_mut().poll(context)
        {
            left = Some(value);
        }
        if right.is_none()
            && let std::task::Poll::Ready(value) = b.as_mut().poll(context)
        {
            right = Some(value);
        }
        if left.is_some() && right.is_some() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    (left.take().unwrap(), right.take().unwrap())
}

/// `len` bytes that tell their place, by `seed`.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let byte = |i: u64| ((i ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
    (0..len as u64).map(byte).collect()
}

/// Whether the target said no, and nothing else went wrong.
pub fn denied<T: std::fmt::Debug>(result: Result<T, Error>) {
    match result {
        Err(Error::OutOfBounds { .. } | Error::Refused { .. }) => {}
        other => panic!("{other:?} is not a no"),
    }
}

/// A `#[test]` for each story, run by `$run`.
#[macro_export]
macro_rules! contract {
    ($run:ident) => {
        $crate::contract!(@tests $run, stories:
            a_write_is_read_back,
            a_completed_write_is_in_place,
            what_is_beside_a_write_stays,
            nothing_can_be_read_and_written,
            an_immediate_comes_after_its_bytes,
            compare_swap_changes_only_what_it_expected,
            fetch_add_wraps,
            atomics_of_two_connections_do_not_lose_updates,
            messages_come_in_order_and_whole,
            messages_and_immediates_come_in_the_order_of_posting,
            persist_sees_the_writes_before_it,
            a_barrier_that_fails_is_told,
            a_batch_completes_in_order,
            thousands_of_operations_are_in_flight,
            both_ends_post_at_once,
            a_large_transfer_comes_whole,
            a_dropped_pending_does_not_stop_its_write,
            buffers_are_let_go,
        );
        $crate::contract!(@tests $run, limits:
            what_is_out_of_bounds_is_denied,
            offsets_do_not_wrap,
            rights_are_checked,
            a_key_that_was_never_given_is_denied,
            a_revoked_key_is_denied,
            registrations_are_revoked_one_by_one,
            atomics_want_aligned_offsets,
            what_is_too_large_is_denied,
            after_a_failure_all_that_follows_fails,
            what_follows_a_failure_has_no_effect,
            closing_is_told_to_the_peer,
            what_had_arrived_is_delivered_after_closing,
            operations_under_way_fail_when_the_peer_closes,
            a_closed_connection_takes_nothing,
            dropping_the_last_handle_closes,
            peers_have_names,
            connecting_to_nobody_fails,
        );
    };
    (@tests $run:ident, $module:ident: $($name:ident,)*) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    super::$run(|pair| Box::pin(super::contract::$module::$name(pair)));
                }
            )*
        }
    };
}
