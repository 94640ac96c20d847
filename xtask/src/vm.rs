//! `cargo xtask vm`: a machine with persistent memory, for those who have none.
//!
//! A QEMU guest under software emulation has two virtual NVDIMMs and sees the
//! host's files, so binaries built on the host run in it unchanged: [`setup`]
//! fetches what it is made of, [`machine`] boots it for one command, [`suite`]
//! runs the tests that are about persistent memory in it, [`rdma`] those of the
//! verbs backend over two emulated cards, [`powercut`] pulls its plug, and [`failover`] that of one of two, which keep a
//! cluster. Everything it keeps lies in `vm` in the target folder.
//!
//! `CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="target/debug/xtask vm"` (as an
//! absolute path) lets `cargo test` run its programs there, a boot for each.
//!
//! Not part of `cargo xtask ci`: it needs Linux on x86-64 with QEMU. No figure
//! measured in it says anything about real hardware, and a missing flush goes
//! unnoticed there: stores reach the file behind an NVDIMM without it. That is
//! the crash simulator's work.

mod archive;
mod failover;
mod machine;
mod powercut;
mod rdma;
mod setup;
mod suite;

use crate::step::Failure;

/// What the guest calls its first NVDIMM: a folder on ext4 with DAX.
const DAX_FOLDER: &str = "/run/pmem";
/// And the second: a device.
const DAX_DEVICE: &str = "/dev/dax1.0";

/// `cargo xtask vm setup | test | test-rdma | powercut | failover | COMMAND`; the status to exit with.
pub(crate) fn run(arguments: &[String]) -> Result<u8, Failure> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => Err(
            "vm: say `setup`, `test`, `test-rdma`, `powercut`, `failover` or a command to run"
                .into(),
        ),
        ["setup"] => setup::install().map(|()| 0),
        ["test", filters @ ..] => suite::run(filters),
        ["test-rdma", filters @ ..] => rdma::run(filters),
        ["powercut"] => powercut::run(powercut::ROUNDS).map(|()| 0),
        ["powercut", rounds] => powercut::run(number(rounds)?).map(|()| 0),
        ["failover"] => failover::run(failover::ROUNDS).map(|()| 0),
        ["failover", rounds] => failover::run(number(rounds)?).map(|()| 0),
        ["--", command @ ..] | command => machine::run(command),
    }
}

fn number(rounds: &str) -> Result<u32, Failure> {
    rounds
        .parse()
        .map_err(|_| format!("vm: {rounds} is no number of rounds"))
}

/// `text` as one word of a shell command.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_quoted_word_is_one_word_to_the_shell() {
        for text in ["", "a b", "it's", "$HOME `id` \\ \"x\"\n'"] {
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quoted(text))])
                .output()
                .expect("there is a shell");
            assert_eq!(String::from_utf8_lossy(&output.stdout), text);
        }
    }
}
