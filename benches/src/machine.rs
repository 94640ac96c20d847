//! Where a figure was measured: machine, kernel, versions; and which processor
//! a thread runs on.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ffi::CStr;
use std::fs;
use std::process::Command;

/// Crates whose versions a reader of the figures wants to know.
const PEERS: [&str; 17] = [
    "mimalloc",
    "snmalloc-rs",
    "tikv-jemallocator",
    "libmimalloc-sys",
    "tikv-jemalloc-sys",
    "tcmalloc-better",
    "libtcmalloc-sys",
    "tokio",
    "rustls",
    "tarpc",
    "tonic",
    "redb",
    "heed",
    "lmdb-master-sys",
    "fjall",
    "sled",
    "rusqlite",
];

/// Prints the head of a report.
pub(crate) fn print() {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split(": ").nth(1))
        .unwrap_or("?");
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    let kernel = read("/proc/sys/kernel/osrelease");
    let huge = read("/sys/kernel/mm/transparent_hugepage/enabled");
    let huge = huge.split(['[', ']']).nth(1).unwrap_or("?").to_owned();
    println!(
        "{model}, {cores} cores, Linux {}, huge pages: {huge}",
        kernel.trim()
    );
    let mut versions = vec![format!(
        "bartender {}{}",
        env!("CARGO_PKG_VERSION"),
        said("git", &["rev-parse", "--short", "HEAD"])
            .map_or(String::new(), |id| format!(" ({id})"))
    )];
    versions.extend(said("rustc", &["--version"]));
    // SAFETY: returns a string that is never freed.
    let libc = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) };
    versions.push(format!("glibc {}", libc.to_string_lossy()));
    let lock = include_str!("../../Cargo.lock");
    for peer in PEERS {
        let entry = lock.split("[[package]]").find_map(|package| {
            let package = package.trim_start();
            package.strip_prefix(&format!("name = \"{peer}\"\nversion = \""))
        });
        versions.extend(entry.and_then(|rest| Some(format!("{peer} {}", rest.split('"').next()?))));
    }
    if cfg!(feature = "pmemobj") {
        let version = said("pkg-config", &["--modversion", "libpmemobj"]);
        versions.extend(version.map(|version| format!("libpmemobj {version}")));
    }
    println!("{}", versions.join(", "));
}

/// The first line that a command prints.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.trim();
    output.status.success().then(|| line.to_owned())
}

/// Writes to as much of the system's free memory as `bytes` says, and gives it back. In a virtual machine, memory that was
/// free for seconds costs microseconds a page, whoever takes it first: so everybody finds the same, whoever went before.
/// In huge pages, where the system has them: whoever asks for small ones gets parts of these, but not the other way round.
pub(crate) fn touch_free_memory(bytes: usize) {
    const HUGE: usize = 2 << 20;
    if bytes < HUGE {
        return;
    }
    let layout = Layout::from_size_align(bytes, HUGE).expect("sizes of a workload");
    // SAFETY: not of size 0; a hint about a block of whole pages; within the block, which is freed with its layout.
    unsafe {
        let block = alloc(layout);
        if block.is_null() {
            handle_alloc_error(layout);
        }
        libc::madvise(block.cast(), bytes / HUGE * HUGE, libc::MADV_HUGEPAGE);
        (0..bytes)
            .step_by(4096)
            .for_each(|at| block.add(at).write_volatile(1));
        dealloc(block, layout);
    }
}

/// Lets the calling thread run on processor `i`, modulo how many there are, and
/// on no other. Without it two threads of a short round often share one, and
/// every figure of two threads is doubled at random.
pub(crate) fn pin(i: usize) {
    use std::sync::OnceLock;
    static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();
    // SAFETY: plain data of which all bit patterns are valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::cpu_set_t>();
    let allowed = ALLOWED.get_or_init(|| {
        // Of the process, not of this thread, which may be pinned already.
        let process = std::process::id() as libc::pid_t;
        // SAFETY: fills the set, which has this size.
        if unsafe { libc::sched_getaffinity(process, size, &mut set) } != 0 {
            return Vec::new();
        }
        let all = 0..libc::CPU_SETSIZE as usize;
        // SAFETY: in the set's range.
        all.filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
            .collect()
    });
    if allowed.is_empty() {
        return;
    }
    // SAFETY: as above; the processor is one that the set can name.
    unsafe {
        libc::CPU_ZERO(&mut set);
        libc::CPU_SET(allowed[i % allowed.len()], &mut set);
        // Where it is refused the figures are less steady, nothing else.
        let _ = libc::sched_setaffinity(0, size, &set);
    }
}
