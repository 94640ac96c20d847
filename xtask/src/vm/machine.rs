//! One boot of the guest: what it is told to run, how long it may take, and
//! what comes back.
//!
//! The command runs in the folder it was called in, with the host's `PATH`,
//! `HOME` and every variable that starts with `RUST`, `CARGO` or `BARTENDER`.
//! What it writes outside of the NVDIMMs is gone when the machine stops.
//!
//! `VM_CPUS` (2), `VM_MEMORY` (2G), `VM_BOOT_LIMIT` and `VM_LIMIT` (seconds, 240
//! and 1800) and `VM_NODE` (1) change the defaults; nodes have NVDIMMs of their
//! own and may run side by side.

use super::quoted;
use super::setup::{Kernel, find_program, make_folder, write};
use crate::step::{Failure, target};
use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const QEMU: &str = "qemu-system-x86_64";
/// Bytes of each NVDIMM; the files have holes.
const NVDIMM: u64 = 1 << 30;
/// The guest's second program.
const GUEST: &str = include_str!("../../vm/guest.sh");

/// Where all machines keep what they keep.
pub(super) fn state() -> PathBuf {
    target("vm")
}

/// `cargo xtask vm COMMAND`.
pub(super) fn run(command: &[&str]) -> Result<u8, Failure> {
    let script: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    let machine = Machine::new()?;
    machine.start(&script.join(" "), std::io::stdout())?.wait()
}

/// A guest that is not running: its files and its limits.
pub(super) struct Machine {
    kernel: Kernel,
    qemu: PathBuf,
    folder: PathBuf,
    boot_limit: Duration,
    limit: Duration,
    cable: Option<Cable>,
}

/// One end of a cable between two machines: what one sends goes to the other's port of this host in datagrams, so either may be gone.
#[derive(Clone, Copy)]
pub(super) struct Cable {
    /// The last number of the card's hardware address.
    pub(super) number: u8,
    pub(super) near: u16,
    pub(super) far: u16,
}

impl Machine {
    /// The one that `VM_NODE` names.
    pub(super) fn new() -> Result<Machine, Failure> {
        Machine::of_node(&knob("VM_NODE", "1"))
    }

    pub(super) fn of_node(node: &str) -> Result<Machine, Failure> {
        let qemu = find_program(QEMU)
            .ok_or_else(|| format!("vm: {QEMU} is missing; run `cargo xtask vm setup`"))?;
        let kernel = Kernel::find()?;
        let folder = state().join(format!("node-{node}"));
        make_folder(&folder.join("out"))?;
        Ok(Machine {
            kernel,
            qemu,
            folder,
            boot_limit: seconds("VM_BOOT_LIMIT", 240)?,
            limit: seconds("VM_LIMIT", 1800)?,
            cable: None,
        })
    }

    /// Gives it a network card, `eth0` to the guest.
    pub(super) fn plug_in(&mut self, cable: Cable) {
        self.cable = Some(cable);
    }

    /// Forgets what the NVDIMMs hold.
    pub(super) fn blank(&self) -> Result<(), Failure> {
        for i in 0..2 {
            let file = self.nvdimm(i);
            if file.exists() {
                fs::remove_file(&file)
                    .map_err(|error| format!("vm: cannot remove {}: {error}", file.display()))?;
            }
        }
        Ok(())
    }

    /// Boots, and runs `script` (for bash). What it prints goes to `out` and to
    /// this program's standard error.
    pub(super) fn start(
        &self,
        script: &str,
        out: impl Write + Send + 'static,
    ) -> Result<Running<'_>, Failure> {
        let lock = self.lock()?;
        for i in 0..2 {
            let path = self.nvdimm(i);
            let file = File::options().create(true).append(true).open(&path);
            file.and_then(|file| file.set_len(NVDIMM))
                .map_err(|error| format!("vm: cannot make {}: {error}", path.display()))?;
        }
        let output = self.output();
        for name in ["up", "status", "failed"] {
            let _ = fs::remove_file(output.join(name));
        }
        write(&output.join("guest.sh"), GUEST.as_bytes())?;
        write(&output.join("command.sh"), self.command(script).as_bytes())?;
        let modules = self.kernel.modules();
        let kernel = format!(
            "KERNEL={}\nMODULES={}\n",
            quoted(&self.kernel.version),
            quoted(&modules.to_string_lossy())
        );
        write(&output.join("kernel"), kernel.as_bytes())?;
        let mut child = self
            .qemu()
            .spawn()
            .map_err(|error| format!("vm: cannot start {}: {error}", self.qemu.display()))?;
        let stdout = child.stdout.take().expect("it is a pipe");
        let stderr = child.stderr.take().expect("it is a pipe");
        Ok(Running {
            machine: self,
            child,
            copies: vec![copy(stdout, out), copy(stderr, std::io::stderr())],
            since: Instant::now(),
            up: false,
            _lock: lock,
        })
    }

    fn nvdimm(&self, i: u32) -> PathBuf {
        self.folder.join(format!("nvdimm{i}"))
    }

    /// A folder of both, which the guest calls `/run/out`.
    pub(super) fn output(&self) -> PathBuf {
        self.folder.join("out")
    }

    fn console(&self) -> PathBuf {
        self.folder.join("console")
    }

    /// Two machines with the same NVDIMMs would ruin them.
    fn lock(&self) -> Result<File, Failure> {
        let path = self.folder.join("lock");
        let file = File::create(&path)
            .map_err(|error| format!("vm: cannot make {}: {error}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(format!(
                "vm: {} is running; wait for it, or set VM_NODE to another number",
                self.folder.display()
            )),
            Err(TryLockError::Error(error)) => {
                Err(format!("vm: cannot lock {}: {error}", path.display()))
            }
        }
    }

    /// The script with its environment.
    fn command(&self, script: &str) -> String {
        let mut text = String::new();
        for (name, value) in std::env::vars() {
            let ours = ["RUST", "CARGO", "BARTENDER"]
                .iter()
                .any(|p| name.starts_with(p));
            if ours || name == "PATH" || name == "HOME" {
                text += &format!("export {name}={}\n", quoted(&value));
            }
        }
        if let Ok(folder) = std::env::current_dir() {
            text += &format!("cd {} || exit 126\n", quoted(&folder.to_string_lossy()));
        }
        text + script + "\n"
    }

    fn qemu(&self) -> Command {
        let memory = knob("VM_MEMORY", "2G");
        // Should this program be killed, the machine goes with it.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL"]).arg(&self.qemu);
        let mut option = |words: &str| {
            qemu.args(words.split(' '));
        };
        option("-nodefaults -no-reboot -display none");
        option("-machine q35,nvdimm=on,nvdimm-persistence=mem-ctrl");
        // Stock kernels hang in early boot under nested KVM.
        option("-accel tcg,thread=multi -cpu max");
        option(&format!("-smp {}", knob("VM_CPUS", "2")));
        option(&format!("-m {memory},slots=2,maxmem=16G"));
        option("-device virtio-serial");
        for port in ["out", "err"] {
            let to = format!("/dev/std{port}");
            option(&format!("-chardev file,id={port},path={to},append=on"));
            option(&format!(
                "-device virtserialport,chardev={port},name={port}"
            ));
        }
        // Values with paths: a comma in them is written twice.
        let path = |path: PathBuf| path.to_string_lossy().replace(',', ",,");
        for i in 0..2 {
            let file = path(self.nvdimm(i));
            qemu.arg("-object").arg(format!(
                "memory-backend-file,id=memory{i},share=on,mem-path={file},size={NVDIMM}"
            ));
            qemu.arg("-device")
                .arg(format!("nvdimm,memdev=memory{i},id=nvdimm{i}"));
        }
        let shared = "security_model=none,multidevs=remap";
        qemu.arg("-virtfs")
            .arg(format!("local,path=/,mount_tag=host,readonly=on,{shared}"));
        let output = path(self.output());
        qemu.arg("-virtfs")
            .arg(format!("local,path={output},mount_tag=out,{shared}"));
        if let Some(Cable { number, near, far }) = self.cable {
            qemu.arg("-netdev").arg(format!(
                "socket,id=cable,udp=127.0.0.1:{far},localaddr=127.0.0.1:{near}"
            ));
            qemu.arg("-device").arg(format!(
                "virtio-net-pci,netdev=cable,mac=52:54:00:00:00:{number:02x}"
            ));
        }
        qemu.arg("-chardev")
            .arg(format!("file,id=console,path={}", path(self.console())));
        qemu.args(["-serial", "chardev:console"]);
        qemu.arg("-kernel").arg(self.kernel.image());
        qemu.arg("-initrd").arg(self.kernel.archive());
        qemu.arg("-append")
            .arg("console=ttyS0 panic=-1 quiet mitigations=off random.trust_cpu=on rdinit=/init");
        qemu.stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        qemu
    }
}

/// A guest that is booting or running. Dropping it stops it.
pub(super) struct Running<'m> {
    machine: &'m Machine,
    child: Child,
    copies: Vec<JoinHandle<()>>,
    /// When it was started, or came up.
    since: Instant,
    up: bool,
    _lock: File,
}

impl Running<'_> {
    /// Waits until the command is done: its exit status.
    pub(super) fn wait(mut self) -> Result<u8, Failure> {
        while !self.is_over()? {
            std::thread::sleep(Duration::from_millis(50));
        }
        for copy in self.copies.drain(..) {
            let _ = copy.join();
        }
        let output = self.machine.output();
        if let Ok(why) = fs::read_to_string(output.join("failed")) {
            return Err(format!("vm: the guest could not start: {}", why.trim()));
        }
        let status = fs::read_to_string(output.join("status"));
        status
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| self.lost("stopped without an exit status"))
    }

    /// Pulls the plug: SIGKILL to the emulator, and to nothing else.
    pub(super) fn cut(mut self) -> Result<(), Failure> {
        if self.is_over()? {
            return Err(self.lost("was over before its power could be cut"));
        }
        self.end();
        for copy in self.copies.drain(..) {
            let _ = copy.join();
        }
        Ok(())
    }

    /// Whether the machine has stopped; an error if it takes too long.
    pub(super) fn is_over(&mut self) -> Result<bool, Failure> {
        let over = self.child.try_wait();
        if over
            .map_err(|error| format!("vm: cannot wait for {QEMU}: {error}"))?
            .is_some()
        {
            return Ok(true);
        }
        if !self.up && self.machine.output().join("up").exists() {
            self.up = true;
            self.since = Instant::now();
        }
        let (limit, what) = if self.up {
            (self.machine.limit, "did not finish (VM_LIMIT)")
        } else {
            (self.machine.boot_limit, "did not come up (VM_BOOT_LIMIT)")
        };
        if self.since.elapsed() > limit {
            self.end();
            return Err(self.lost(&format!("{what} within {} s", limit.as_secs())));
        }
        Ok(false)
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// An error with the last words of the guest's console.
    fn lost(&self, what: &str) -> Failure {
        let path = self.machine.console();
        let console = fs::read(&path).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<&str> = console.lines().collect();
        let last = &lines[lines.len().saturating_sub(10)..];
        let path = path.display();
        if last.is_empty() {
            return format!("vm: the guest {what}; its console ({path}) is empty");
        }
        let last = last.join("\n  ");
        format!("vm: the guest {what}; its console ({path}) ends with\n  {last}")
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Copies what comes, as it comes.
fn copy(
    mut from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            // Whoever listened may have gone; the guest goes on.
            let _ = to.write_all(&buffer[..n]).and_then(|()| to.flush());
        }
    })
}

fn knob(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.into())
}

fn seconds(name: &str, default: u64) -> Result<Duration, Failure> {
    let text = knob(name, &default.to_string());
    let number = text
        .parse()
        .map_err(|_| format!("vm: {name}={text} is no number of seconds"))?;
    Ok(Duration::from_secs(number))
}
