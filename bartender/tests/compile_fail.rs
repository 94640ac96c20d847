//! What must not compile does not, and the error says what to do instead.
//!
//! The expected messages belong to one version of the compiler: after an update of it they are
//! written anew with `TRYBUILD=overwrite` and read before they are committed.

#[test]
fn what_is_unsound_does_not_compile() {
    let tests = trybuild::TestCases::new();
    tests.compile_fail("tests/ui/*.rs");
}
