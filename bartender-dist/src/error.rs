//! What can go wrong in a cluster, in words that say what to do next.
//!
//! Errors of the layers below are passed on whole, so that the facts they carry
//! (which file, which machine) are not lost.

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the cluster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The region or its medium failed on this machine.
    #[error(transparent)]
    Region(#[from] bartender_pm::Error),

    /// The network failed.
    #[error(transparent)]
    Net(#[from] bartender_net::Error),

    /// The coordinator cannot be reached, or has no majority.
    #[error("coordinator {endpoints}: {what}; regions that are open go on until their leases end")]
    Coordinator {
        /// Where it was looked for.
        endpoints: String,
        /// What it said, or that it said nothing.
        what: String,
    },

    /// The history that a watch needs was dropped.
    #[error(
        "the coordinator keeps changes from revision {oldest} on, a watch asked for those after {asked}; read anew"
    )]
    Compacted {
        /// The revision that the watch had seen.
        asked: u64,
        /// What is kept starts after this one.
        oldest: u64,
    },

    /// A lease is over: its keys are gone.
    #[error("lease {lease:#x} has ended; get a new one and join again")]
    LeaseEnded {
        /// Which.
        lease: u64,
    },

    /// The coordinator was asked what it cannot do; nothing happened.
    #[error("the coordinator cannot do that: {what}")]
    BadRequest {
        /// What is wrong with it.
        what: String,
    },

    /// A record in the coordinator that does not make sense.
    #[error("{key} in the coordinator: {what}; was it changed by hand, or by a newer bartender?")]
    BadRecord {
        /// Its key.
        key: String,
        /// What was expected and what was found.
        what: String,
    },

    /// A name that cannot be part of a key.
    #[error("`{name}` is no name: 1 to 200 of ASCII letters, digits and `-_.:@` make one")]
    BadName {
        /// The name, or its beginning.
        name: String,
    },

    /// Somebody acted on a membership that is over.
    #[error("epoch {found} is over, the cluster is in epoch {current}; reload the region map")]
    StaleEpoch {
        /// The epoch of the request.
        found: u64,
        /// The epoch that holds now.
        current: u64,
    },

    /// This node has left its cluster.
    #[error("this node has left the cluster; join again")]
    Left,

    /// This member's lease ran out before the operation was done.
    #[error("the lease of member {member} ended; join again")]
    LeaseLost {
        /// Name of the member.
        member: String,
    },

    /// The region's primary is another machine.
    #[error("region {region}: this machine is not its primary, {primary} is")]
    NotPrimary {
        /// Name of the region.
        region: String,
        /// Who is.
        primary: String,
    },

    /// Nobody can serve the region: its primary is gone and no backup is whole.
    #[error(
        "region {region}: {alive} of {wanted} copies are alive, none may take over; bring a machine back"
    )]
    Unavailable {
        /// Name of the region.
        region: String,
        /// Copies that answer.
        alive: usize,
        /// Copies there should be.
        wanted: usize,
    },

    /// There are not enough failure domains for the copies that were asked for.
    #[error("region {region}: {wanted} copies need as many failure domains, there are {domains}")]
    Placement {
        /// Name of the region.
        region: String,
        /// Copies that were asked for.
        wanted: usize,
        /// Failure domains with room.
        domains: usize,
    },

    /// No region or root of that name is known.
    #[error("{name}: no such region or root in this cluster")]
    NoSuchName {
        /// The name that was looked up.
        name: String,
    },

    /// Copies of a region differ where they must not.
    #[error(
        "region {region}: copy on {member} differs at offset {offset:#x}; it was taken out of service and will be rebuilt"
    )]
    Diverged {
        /// Name of the region.
        region: String,
        /// Which copy.
        member: String,
        /// First offset that differs.
        offset: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_layers_below_keep_their_words() {
        let below = bartender_pm::Error::Forked;
        let words = below.to_string();
        assert_eq!(Error::from(below).to_string(), words);
    }

    #[test]
    fn a_stale_epoch_names_both_epochs() {
        let error = Error::StaleEpoch {
            found: 3,
            current: 5,
        };
        assert_eq!(
            error.to_string(),
            "epoch 3 is over, the cluster is in epoch 5; reload the region map"
        );
    }
}
