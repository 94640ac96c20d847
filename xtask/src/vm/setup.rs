//! What the guest is made of: programs of the host, a stock kernel, and the
//! archive with its first program.
//!
//! Installs Debian packages where it may and names them where it may not.
//! Changes nothing else outside of the target folder.

use super::archive::Archive;
use super::machine::state;
use crate::step::Failure;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Packages, and a program by which to see that one is there.
const PACKAGES: &[(&str, &str)] = &[
    ("qemu-system-x86", "qemu-system-x86_64"),
    ("busybox-static", "busybox"),
    ("kmod", "depmod"),
    ("xz-utils", "xz"),
    ("util-linux", "blkid"),
    ("e2fsprogs", "mkfs.ext4"),
    ("ndctl", "ndctl"),
    ("iproute2", "rdma"),
    ("ibverbs-providers", "ibv_devices"),
    ("ibverbs-utils", "ibv_devices"),
    ("perftest", "ib_read_lat"),
];

/// What the guest needs before it sees the host's files; its other modules it
/// loads from there.
const FIRST_MODULES: &[&str] = &["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// The guest's first program.
const INIT: &str = include_str!("../../vm/init");

/// The kernel and the archive that it unpacks.
pub(super) struct Kernel {
    pub(super) version: String,
    folder: PathBuf,
}

impl Kernel {
    /// The one that [`install`] left.
    pub(super) fn find() -> Result<Kernel, Failure> {
        let folder = state().join("kernel");
        let version = fs::read_to_string(folder.join("version")).map_err(|_| {
            format!(
                "vm: there is no kernel in {}; run `cargo xtask vm setup` first",
                folder.display()
            )
        })?;
        let version = version.trim().to_owned();
        Ok(Kernel { version, folder })
    }

    pub(super) fn image(&self) -> PathBuf {
        self.folder.join(format!("boot/vmlinuz-{}", self.version))
    }

    pub(super) fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.version)
    }

    pub(super) fn archive(&self) -> PathBuf {
        self.folder.join("first.cpio")
    }
}

/// `cargo xtask vm setup`: may be run again at any time.
pub(super) fn install() -> Result<(), Failure> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("vm: only Linux on x86-64 can be the host".into());
    }
    packages()?;
    let kernel = match Kernel::find() {
        Ok(kernel) => kernel,
        Err(_) => fetch_kernel()?,
    };
    write(&kernel.archive(), &archive(&kernel)?)?;
    println!(
        "vm: ready: kernel {} in {}",
        kernel.version,
        state().display()
    );
    Ok(())
}

fn packages() -> Result<(), Failure> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(package, program)| {
            // Other packages have a `busybox` too, one that needs libraries.
            let installed = Command::new("dpkg").args(["-s", package]).output();
            let installed = installed.is_ok_and(|output| output.status.success());
            !installed && (*program == "busybox" || find_program(program).is_none())
        })
        .map(|&(package, _)| package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let root = output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if !root || find_program("apt-get").is_none() {
        return Err(format!(
            "vm: these programs are missing; as root on Debian: apt-get install {list}"
        ));
    }
    println!("vm: installing {list}");
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive");
    output(&mut install).map(drop)
}

/// The distribution's kernel, unpacked and not installed.
fn fetch_kernel() -> Result<Kernel, Failure> {
    let depends = output(Command::new("apt-cache").args(["depends", "linux-image-amd64"]))?;
    let package = depends
        .split_whitespace()
        .find(|word| word.starts_with("linux-image-") && *word != "linux-image-amd64")
        .ok_or("vm: apt-cache knows no linux-image-amd64; run apt-get update")?
        .to_owned();
    let version = package.trim_start_matches("linux-image-").to_owned();
    println!("vm: fetching {package}");
    let folder = state().join("kernel");
    let _ = fs::remove_dir_all(&folder);
    make_folder(&folder)?;
    output(
        Command::new("apt-get")
            .args(["download", "-qq", &package])
            .current_dir(&folder),
    )?;
    let file = fs::read_dir(&folder)
        .map_err(|error| format!("vm: cannot read {}: {error}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| format!("vm: apt-get download {package} left no file"))?;
    output(Command::new("dpkg").arg("-x").arg(&file).arg(&folder))?;
    let _ = fs::remove_file(&file);
    let kernel = Kernel { version, folder };
    // Newer kernels come with modules that busybox cannot load as they are.
    output(Command::new("sh").arg("-c").arg(format!(
        "find {} -name '*.ko.xz' -exec xz -d {{}} +",
        super::quoted(&kernel.modules().to_string_lossy())
    )))?;
    output(
        Command::new("depmod")
            .arg("-b")
            .arg(&kernel.folder)
            .arg(&kernel.version),
    )?;
    // Last: it says that everything is there.
    write(&kernel.folder.join("version"), kernel.version.as_bytes())?;
    Ok(kernel)
}

fn archive(kernel: &Kernel) -> Result<Vec<u8>, Failure> {
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "sys", "host", "layer", "root", "modules"] {
        archive.folder(folder);
    }
    archive.file("init", INIT.as_bytes());
    let busybox = find_program("busybox").ok_or("vm: busybox is missing")?;
    archive.file("busybox", &read(&busybox)?);
    let mut order: Vec<String> = Vec::new();
    for module in FIRST_MODULES {
        let needed = output(
            Command::new("modprobe")
                .args(["-C", "/dev/null", "-S", &kernel.version, "-d"])
                .arg(&kernel.folder)
                .args(["--show-depends", module]),
        )?;
        for line in needed.lines() {
            let Some(path) = line.strip_prefix("insmod ") else {
                continue;
            };
            let path = Path::new(path.trim());
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !order.iter().any(|known| *known == name) {
                archive.file(&format!("modules/{name}"), &read(path)?);
                order.push(name.into_owned());
            }
        }
    }
    archive.file("modules/order", (order.join("\n") + "\n").as_bytes());
    Ok(archive.finish())
}

/// Where a program is; root's folders too, which not every user has in PATH.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// What a program prints, or why it failed.
fn output(command: &mut Command) -> Result<String, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| format!("vm: cannot start {name}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("vm: {name} failed: {}", said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(super) fn make_folder(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(|error| format!("vm: cannot make {}: {error}", path.display()))
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    fs::write(path, bytes).map_err(|error| format!("vm: cannot write {}: {error}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| format!("vm: cannot read {}: {error}", path.display()))
}
