//! The book's programs, which are compiled and run with the doc tests.

macro_rules! chapters {
    ($($name:ident $file:literal)*) => {
        $(
            #[doc = include_str!(concat!("../../book/src/", $file))]
            struct $name;
        )*
    };
}

chapters! {
    Introduction "introduction.md"
    OwnedAndStored "owned-and-stored.md"
    Transactions "transactions.md"
    Collections "collections.md"
    Methods "methods.md"
    Schema "schema.md"
    FailureModel "failure-model.md"
    Bytes "bytes.md"
    WhyThisIsSafe "why-this-is-safe.md"
    Limits "limits.md"
}
