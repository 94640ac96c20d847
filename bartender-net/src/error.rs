//! What can go wrong between two machines, in words that say what to do next.
//!
//! The enum is complete for the contract on the crate's page. It does not carry
//! errors of regions: those stay errors of `bartender-pm` on the machine that
//! owns the region and travel as [`Error::Refused`].

use std::io;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the fabric.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection could be made.
    #[error("{peer}: cannot connect: {source}; is the machine up and listening there?")]
    Connect {
        /// Address that was tried.
        peer: String,
        /// What the system said.
        source: io::Error,
    },

    /// The connection broke while an operation was under way.
    #[error(
        "{peer}: the connection broke during {operation}: {source}; connect anew and find out what happened"
    )]
    Broken {
        /// The other machine.
        peer: String,
        /// What was under way ("write", "compare_swap").
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },

    /// No answer within the time allowed.
    #[error("{peer}: no answer to {operation} within {millis} ms")]
    TimedOut {
        /// The other machine.
        peer: String,
        /// What was under way.
        operation: &'static str,
        /// How long was waited, in milliseconds.
        millis: u64,
    },

    /// The other machine speaks another version of the protocol.
    #[error(
        "{peer}: speaks protocol {found}, this program speaks {known}; run the same version on both"
    )]
    Protocol {
        /// The other machine.
        peer: String,
        /// Version it offered.
        found: u32,
        /// Version of this build.
        known: u32,
    },

    /// A message or a completion that does not make sense.
    #[error("{peer}: damaged or foreign message: {what}")]
    BadMessage {
        /// The other machine.
        peer: String,
        /// What was expected and what was found.
        what: String,
    },

    /// An operation outside the bounds of a memory region, or against its rights.
    #[error(
        "{peer}: {operation} of {len} bytes at {offset:#x} is outside the memory region ({size} bytes) or not allowed there"
    )]
    OutOfBounds {
        /// The other machine.
        peer: String,
        /// What was tried.
        operation: &'static str,
        /// Offset in the memory region.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Size of the memory region, in bytes.
        size: u64,
    },

    /// No RDMA here.
    #[error("no RDMA device: {what}; use TCP, or set one up (rdma link)")]
    NoDevice {
        /// What is missing.
        what: String,
    },

    /// Memory that cannot be registered with the network.
    #[error("cannot register {len} bytes: {what}")]
    Register {
        /// Bytes that were to be registered.
        len: u64,
        /// Why not ("page cache of a file", "limit of locked memory reached").
        what: String,
    },

    /// The other machine understood and said no.
    #[error("{peer}: refused {operation}: {reason}")]
    Refused {
        /// The other machine.
        peer: String,
        /// What was asked.
        operation: &'static str,
        /// Its answer.
        reason: String,
    },

    /// A certificate or a key that cannot be used, or cannot be issued.
    #[error("certificate: {what}")]
    Certificate {
        /// Why not.
        what: String,
    },

    /// Another node answered than the one that was meant.
    #[error(
        "{peer}: {found} answered, and {expected} was expected; does the address belong to another node now?"
    )]
    AnotherNode {
        /// Address that was connected to.
        peer: String,
        /// Name in the certificate that was shown.
        found: String,
        /// Name that was expected.
        expected: String,
    },

    /// The other machine cannot promise durability in the way that was asked.
    #[error("{peer}: cannot make remote writes durable by {method}; use the acknowledged method")]
    NotDurable {
        /// The other machine.
        peer: String,
        /// The method that was asked for.
        method: &'static str,
    },
}

/// The operation of an [`Error::Refused`] by a card, which does not say which it was.
pub(crate) const ONE_SIDED: &str = "one-sided operation";

impl Error {
    /// Whether the operation may have happened all the same, or a part of it:
    /// its effect has to be looked up before anything is repeated.
    ///
    /// A target that refuses a write may have taken a part of it by then, and of a
    /// barrier that failed some may be durable.
    pub fn effect_unknown(&self) -> bool {
        match self {
            Error::Broken { .. } | Error::TimedOut { .. } => true,
            Error::Refused { operation, .. } => {
                matches!(*operation, "write" | "persist" | ONE_SIDED)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_answers_and_what_may_be_done_in_part_leave_the_effect_unknown() {
        let lost = Error::TimedOut {
            peer: "b:7000".into(),
            operation: "write",
            millis: 50,
        };
        assert!(lost.effect_unknown());
        assert_eq!(lost.to_string(), "b:7000: no answer to write within 50 ms");
        let refused = |operation| Error::Refused {
            peer: "b:7000".into(),
            operation,
            reason: "epoch 3 is over".into(),
        };
        for operation in ["write", "persist", ONE_SIDED] {
            assert!(refused(operation).effect_unknown(), "{operation}");
        }
        for operation in ["read", "compare_swap", "fetch_add", "send"] {
            assert!(!refused(operation).effect_unknown(), "{operation}");
        }
    }
}
