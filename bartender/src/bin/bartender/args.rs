//! The command line.

use bartender_dist::Policy;
use bartender_net::Roles;
use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Keeps regions of persistent memory on several machines.
#[derive(Parser)]
#[command(name = "bartender", version, arg_required_else_help = true)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a memory node: it keeps copies of regions that programs on other machines use
    Node(Box<NodeArgs>),
    /// Make the certificates by which members know each other
    #[command(subcommand)]
    Cert(CertCommand),
    /// Ask a cluster how it is, and change it
    Cluster(ClusterArgs),
}

impl Args {
    /// What is logged unless BARTENDER_LOG says otherwise.
    pub(crate) fn log_level(&self) -> &'static str {
        match self.command {
            Command::Node(_) => "info",
            _ => "error",
        }
    }
}

/// Who we are, and whom we ask.
#[derive(Group)]
pub(crate) struct Reach {
    /// Name of the cluster
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: String,
    /// Folder with authority.pem, NAME.pem and NAME.key, as `bartender cert issue` makes it
    #[arg(long, value_name = "DIR", conflicts_with = "insecure")]
    pub(crate) identity: Option<PathBuf>,
    /// Without certificates: whoever reaches a port is believed
    #[arg(long, required_unless_present = "identity")]
    pub(crate) insecure: bool,
    /// The coordinator that a node serves (see `bartender node --serve-coordinator`); with a NAME it has to be that node that answers
    #[arg(long, value_name = "[NAME@]HOST:PORT")]
    pub(crate) coordinator: Option<String>,
    /// etcd as the coordinator; once for each of its endpoints
    #[cfg(feature = "etcd")]
    #[arg(long, value_name = "URL", conflicts_with = "coordinator")]
    pub(crate) etcd: Vec<String>,
}

/// `bartender node`
#[derive(Group)]
pub(crate) struct NodeArgs {
    /// The node's name in the cluster, which its certificate has to say
    #[arg(long)]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// Where to listen; others reach the node there
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: String,
    /// Folder of the copies, each a file
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Be the cluster's coordinator as well, listening here; its state lies in the data folder
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "coordinator")]
    #[cfg_attr(feature = "etcd", arg(conflicts_with = "etcd"))]
    pub(crate) serve_coordinator: Option<String>,
    /// Milliseconds for which a lease lasts: for so long a primary that died is missed
    #[arg(long, value_name = "MILLIS", default_value_t = 3000,
          value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub(crate) lease: u64,
    /// Serve metrics in Prometheus' format over HTTP here
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
}

/// `bartender cert`
#[derive(Subcommand)]
pub(crate) enum CertCommand {
    /// Make an authority: whoever has its key can be anybody
    Authority {
        /// Folder for authority.pem and authority.key
        dir: PathBuf,
        /// Days for which it is valid
        #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Issue a certificate to a member
    Issue {
        /// The member's name
        name: String,
        /// Folder of the authority
        #[arg(long, value_name = "DIR")]
        authority: PathBuf,
        /// Folder for NAME.pem, NAME.key and authority.pem
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// What it may: reader, writer, node, joined by `+`; members need all of them, who only asks needs reader
        #[arg(long, default_value = "reader+writer+node")]
        role: Roles,
        /// Days for which it is valid
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
}

/// `bartender cluster`
#[derive(Group)]
pub(crate) struct ClusterArgs {
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// Whose certificate of the identity folder to show; needed if there are several
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[command(subcommand)]
    pub(crate) command: ClusterCommand,
}

#[derive(Subcommand)]
pub(crate) enum ClusterCommand {
    /// Show regions, their copies, and how far behind they are
    Status {
        /// Everything that is known, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Change who has copies of a region, as to replace a dead machine
    Replicas {
        /// The region
        region: String,
        /// A member that is to have a copy
        #[arg(long, value_name = "NAME", required_unless_present = "remove")]
        add: Vec<String>,
        /// One that is not
        #[arg(long, value_name = "NAME")]
        remove: Vec<String>,
    },
    /// Change what commits do about a backup that does not answer
    Policy {
        /// The region
        region: String,
        /// What to do
        policy: PolicyWord,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum PolicyWord {
    /// Commits wait for it until its lease ends
    Block,
    /// It is removed once it is too slow
    Degrade,
}

impl From<PolicyWord> for Policy {
    fn from(word: PolicyWord) -> Policy {
        match word {
            PolicyWord::Block => Policy::Block,
            PolicyWord::Degrade => Policy::Degrade,
        }
    }
}
