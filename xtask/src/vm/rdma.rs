//! `cargo xtask vm test-rdma`: the verbs backend over two Soft-RoCE cards in the
//! guest: the contract of all backends, memory on a device and on tmpfs, a peer
//! that is killed, or gone without a word; and what a read of 64 bytes takes beside `ib_read_lat`.
//!
//! The latter is functional only: under emulation it says nothing about cards.

use super::machine::Machine;
use super::{DAX_DEVICE, DAX_FOLDER, quoted, suite};
use crate::step::{Failure, root};

/// Makes the cards.
const CARDS: &str = include_str!("../../vm/rdma.sh");

/// Runs all tests and the comparison, or the tests that `filters` name.
pub(super) fn run(filters: &[&str]) -> Result<u8, Failure> {
    let machine = Machine::new()?;
    let build = |options: &[&str]| {
        let built = suite::build("bartender-net", &["verbs"], &["rdma"], options)?;
        let program = built.first().ok_or("vm: cargo built nothing")?;
        Ok::<_, Failure>(quoted(program))
    };
    let program = build(&[])?;
    let folder = quoted(&root().join("bartender-net").to_string_lossy());
    let words: Vec<String> = filters.iter().map(|word| quoted(word)).collect();
    let words = words.join(" ");
    let mut script = format!(
        "{CARDS}\ncd {folder}\nexport BARTENDER_TEST_RDMA=rxe0,rxe1 BARTENDER_TEST_RDMA_LINK=veth0\n\
         BARTENDER_TEST_DEVDAX={DAX_DEVICE} BARTENDER_TEST_FSDAX={DAX_FOLDER} \
         {program} --test-threads 1 {words} || exit 1\n"
    );
    if filters.is_empty() {
        // Its peer is optimised as well.
        let program = build(&["--release"])?;
        script += &format!(
            "ours=$(BARTENDER_TEST_LATENCY=1 {program} --exact read_latency --nocapture |\n\
             \x20   awk '$1 == \"read64\" {{ print $3 }}')\n\
             bare=$(bare_read)\n\
             echo \"read of 64 bytes, p50: ours $ours us, ib_read_lat $bare us,\" \\\n\
             \x20   \"ratio $(awk -v a=\"$ours\" -v b=\"$bare\" 'BEGIN {{ printf \"%.2f\", b ? a / b : 0 }}')\"\n"
        );
    }
    machine.start(&script, std::io::stdout())?.wait()
}
