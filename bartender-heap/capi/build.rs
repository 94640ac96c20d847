//! Gives the shared library its name: what a program linked with it asks for at
//! run time. The number changes when a program has to be compiled again.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libbartender.so.0");
    }
}
