//! C programs against the installed library: `cargo xtask capi test` installs it
//! and says where by `BARTENDER_CAPI_PREFIX`. Without that, and without a C
//! compiler, these tests say that they are skipped.

use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A compiler, the installed library, and a folder for what comes of them.
struct Compiler {
    prefix: PathBuf,
    folder: TempDir,
}

/// How a program is linked.
#[derive(Clone, Copy, PartialEq)]
enum Link {
    Shared,
    Static,
}

fn works(tool: &str) -> bool {
    let output = Command::new(tool).arg("--version").output();
    output.is_ok_and(|output| output.status.success())
}

/// `None`, and a word why, where C programs cannot be compiled.
fn compiler() -> Option<Compiler> {
    let Some(prefix) = std::env::var_os("BARTENDER_CAPI_PREFIX") else {
        println!("skipped: `cargo xtask capi test` runs it");
        return None;
    };
    if !works("cc") {
        println!("skipped: there is no C compiler `cc`");
        return None;
    }
    Some(Compiler {
        prefix: prefix.into(),
        folder: tempfile::tempdir().expect("a folder"),
    })
}

fn source(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c");
    folder.join(name)
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let (out, err) = (output.stdout, String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{err}",
        output.status
    );
    String::from_utf8(out).expect("text")
}

impl Compiler {
    /// What pkg-config says, or the file itself.
    fn flags(&self, static_too: bool) -> Vec<String> {
        let folder = self.prefix.join("lib/pkgconfig");
        let text = if works("pkg-config") {
            let mut command = Command::new("pkg-config");
            command.env("PKG_CONFIG_PATH", &folder);
            command.args(["--cflags", "--libs"]);
            command.args(static_too.then_some("--static"));
            run(command.arg("bartender"))
        } else {
            let text = std::fs::read_to_string(folder.join("bartender.pc")).expect("installed");
            let prefix = self.prefix.to_str().expect("text");
            let text = text.replace("${includedir}", "${prefix}/include");
            let text = text.replace("${libdir}", "${prefix}/lib");
            let text = text.replace("${prefix}", prefix);
            let private = if static_too {
                "Libs.private:"
            } else {
                "Cflags:"
            };
            let fields = ["Cflags:", "Libs:", private];
            let lines = text.lines();
            let found = lines.filter_map(|line| fields.iter().find_map(|f| line.strip_prefix(f)));
            found.collect::<Vec<_>>().join(" ")
        };
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn compile(&self, source: &Path, link: Link, more: &[&str]) -> PathBuf {
        let name = source.file_stem().expect("a name").to_str().expect("text");
        let kind = if link == Link::Static {
            "static"
        } else {
            "shared"
        };
        let program = self.folder.path().join(format!("{name}-{kind}"));
        let lib = self.prefix.join("lib");
        let mut command = Command::new("cc");
        command
            .args([
                "-std=c11",
                "-D_POSIX_C_SOURCE=200809L",
                "-O1",
                "-g",
                "-Wall",
                "-Wextra",
            ])
            .args(["-Wstrict-prototypes", "-pedantic", "-Werror", "-pthread"])
            .args(more)
            .arg("-I")
            .arg(self::source(""))
            .arg(source)
            .arg("-o")
            .arg(&program);
        match link {
            Link::Shared => {
                command.args(self.flags(false));
                command.arg(format!("-Wl,-rpath,{}", lib.display()));
            }
            Link::Static => {
                let flags = self.flags(true).into_iter();
                let library = lib.join("libbartender.a");
                command.args(flags.map(|flag| match flag == "-lbartender" {
                    true => library.to_str().expect("text").to_owned(),
                    false => flag,
                }));
            }
        }
        run(&mut command);
        program
    }

    fn region(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

#[test]
fn each_function_does_and_fails_as_the_header_says() {
    let Some(cc) = compiler() else { return };
    for link in [Link::Shared, Link::Static] {
        let program = cc.compile(&source("api.c"), link, &[]);
        run(Command::new(program).arg(cc.region(&format!("{}", link as u8))));
    }
}

#[test]
fn every_function_that_is_declared_is_there_to_link() {
    let Some(cc) = compiler() else { return };
    let header = std::fs::read_to_string(cc.prefix.join("include/bartender.h")).expect("installed");
    let mut text = "#include <bartender.h>\nint main(void) {\n    int there = 0;\n".to_owned();
    let mut count = 0;
    for line in header
        .lines()
        .filter(|line| line.contains(" bt_") || line.contains("*bt_"))
    {
        let Some((before, _)) = line.split_once('(').filter(|_| line.ends_with(';')) else {
            continue;
        };
        let name = before.rsplit([' ', '*']).next().expect("a name");
        writeln!(text, "    there += (void (*)(void)){name} != 0;").expect("a string");
        count += 1;
    }
    assert!(count > 25, "{count}");
    writeln!(text, "    return there == {count} ? 0 : 1;\n}}").expect("a string");
    let file = cc.region("every.c");
    std::fs::write(&file, text).expect("written");
    for link in [Link::Shared, Link::Static] {
        // The compiler knows that functions are somewhere.
        run(&mut Command::new(cc.compile(
            &file,
            link,
            &["-O0", "-Wno-address"],
        )));
    }
}

#[test]
fn a_compiler_of_cpp_takes_the_header() {
    let Some(cc) = compiler() else { return };
    if !works("c++") {
        return println!("skipped: there is no `c++`");
    }
    let header = cc.prefix.join("include/bartender.h");
    let mut command = Command::new("c++");
    command.args([
        "-std=c++17",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fsyntax-only",
        "-x",
        "c++",
    ]);
    run(command.arg(header));
}

/// The program of the README, to the letter.
#[test]
fn the_readme_program_keeps_its_stack() {
    let Some(cc) = compiler() else { return };
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(readme).expect("it is there");
    let (_, rest) = readme.split_once("```c\n").expect("a program in C");
    let (program, _) = rest.split_once("```").expect("its end");
    let file = cc.region("stack.c");
    std::fs::write(&file, program).expect("written");
    for link in [Link::Shared, Link::Static] {
        let _ = std::fs::remove_file(cc.region("stack.region"));
        let program = cc.compile(&file, link, &[]);
        let push = |arguments: &[&str]| {
            let mut command = Command::new(&program);
            run(command.current_dir(cc.folder.path()).args(arguments))
        };
        assert_eq!(push(&["one", "two"]), "two\none\n");
        assert_eq!(push(&["three"]), "three\ntwo\none\n");
        assert_eq!(push(&[]), "three\ntwo\none\n");
    }
}

#[test]
fn threads_share_a_heap() {
    let Some(cc) = compiler() else { return };
    let program = cc.compile(&source("threads.c"), Link::Shared, &[]);
    run(Command::new(program).arg(cc.region("threads")));
}

#[test]
fn a_program_loads_the_library_late() {
    let Some(cc) = compiler() else { return };
    // Linked with it for the flags only: nothing in the program needs it.
    let program = cc.compile(&source("late.c"), Link::Shared, &["-Wl,--as-needed"]);
    let mut command = Command::new(program);
    command.arg(cc.region("late"));
    run(command.arg(cc.prefix.join("lib/libbartender.so")));
}

#[test]
fn a_hungry_program_runs_under_address_sanitizer() {
    let Some(cc) = compiler() else { return };
    let probe = cc.region("probe.c");
    std::fs::write(&probe, "int main(void) { return 0; }\n").expect("written");
    let mut command = Command::new("cc");
    command
        .args(["-fsanitize=address", "-o"])
        .arg(cc.region("probe"))
        .arg(&probe);
    if !command.output().is_ok_and(|output| output.status.success()) {
        return println!("skipped: the compiler has no AddressSanitizer");
    }
    let sanitize = ["-fsanitize=address", "-fno-omit-frame-pointer"];
    for (name, link) in [("hungry.c", Link::Shared), ("api.c", Link::Static)] {
        let program = cc.compile(&source(name), link, &sanitize);
        // Where a barrier is cheap: it waits for a hundred thousand.
        let folder = folders().pop().expect("there is one");
        run(Command::new(program).arg(folder.path().join("a.region")));
    }
}

/// Kills `program` in mode `run` again and again, each time in another moment;
/// what it had printed by then is there in mode `check`.
fn survives(cc: &Compiler, program: &Path, mode: &str, folder: &Path, sum: bool) {
    let region = folder.join(format!("{mode}.region"));
    let mut known = 0;
    for round in 0..12u64 {
        let mut child = Command::new(program)
            .arg(&region)
            .arg(mode)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let reader = std::thread::spawn(move || {
            let numbers = lines
                .map_while(Result::ok)
                .filter_map(|line| line.parse().ok());
            numbers.max().unwrap_or(0u64)
        });
        std::thread::sleep(Duration::from_millis(20 + round * round % 7 * 23));
        child.kill().expect("it ran until now");
        child.wait().expect("it is dead");
        let told = reader.join().expect("no panic");
        let least = if sum { told } else { known.max(told) };
        let mut command = Command::new(program);
        let found = run(command.arg(&region).arg("check").arg(least.to_string()));
        let found: u64 = found.trim().parse().expect("a number");
        assert!(found >= known, "{found} after {known}");
        known = found;
    }
    assert!(known > 0, "it never came to anything");
    let _ = cc;
}

fn folders() -> Vec<TempDir> {
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let shared = tempfile::tempdir_in("/dev/shm");
    [Some(disk), shared.ok()].into_iter().flatten().collect()
}

#[test]
fn a_linked_list_survives_being_killed() {
    let Some(cc) = compiler() else { return };
    let program = cc.compile(&source("list.c"), Link::Shared, &[]);
    for folder in folders() {
        survives(&cc, &program, "append", folder.path(), false);
    }
}

#[test]
fn a_bank_of_transactions_survives_being_killed() {
    let Some(cc) = compiler() else { return };
    let program = cc.compile(&source("bank.c"), Link::Static, &[]);
    for folder in folders() {
        survives(&cc, &program, "run", folder.path(), true);
    }
}
