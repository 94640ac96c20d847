//! Types that cannot live in a region, recognised by name, and what to use instead.
//!
//! It is a courtesy: the error comes at the field and names the persistent twin. What
//! it does not recognise fails at the trait bound of the generated code. A type of the
//! program's own that happens to have such a name is written with a path (`self::Cell<T>`).

use syn::{GenericArgument, Path, PathArguments, Type};

/// Finds what cannot be stored in `ty`; one error each.
pub(crate) fn check(ty: &Type, errors: &mut Vec<syn::Error>) {
    match ty {
        Type::Path(path) => {
            if path.qself.is_none()
                && let Some(advice) = advice(&path.path)
            {
                errors.push(syn::Error::new_spanned(path, advice));
                return;
            }
            for segment in &path.path.segments {
                if let PathArguments::AngleBracketed(arguments) = &segment.arguments {
                    for argument in &arguments.args {
                        match argument {
                            // A box may hold a slice or a text.
                            GenericArgument::Type(Type::Path(path))
                                if segment.ident == "PBox" && path.path.is_ident("str") => {}
                            GenericArgument::Type(Type::Slice(slice))
                                if segment.ident == "PBox" =>
                            {
                                check(&slice.elem, errors);
                            }
                            GenericArgument::Type(ty) => check(ty, errors),
                            _ => {}
                        }
                    }
                }
            }
        }
        Type::Tuple(tuple) => tuple.elems.iter().for_each(|ty| check(ty, errors)),
        Type::Array(array) => check(&array.elem, errors),
        Type::Paren(inner) => check(&inner.elem, errors),
        Type::Group(inner) => check(&inner.elem, errors),
        Type::Reference(_) => errors.push(syn::Error::new_spanned(
            ty,
            "a reference cannot be stored in a region: it would outlive what it borrows; \
             own the value (`PBox<T>`, `PString`, `PVec<T>`) or store a key",
        )),
        Type::Ptr(_) => errors.push(syn::Error::new_spanned(
            ty,
            "a raw pointer cannot be stored in a region: nothing would keep it valid after the \
             next opening; use `PBox<T>`, or store a key",
        )),
        Type::BareFn(_) => errors.push(syn::Error::new_spanned(
            ty,
            "a function pointer cannot be stored in a region: code moves from run to run; \
             use an enum",
        )),
        Type::TraitObject(_) | Type::ImplTrait(_) => errors.push(syn::Error::new_spanned(
            ty,
            "a trait object cannot be stored in a region: its table moves from run to run; \
             use an enum",
        )),
        Type::Slice(_) => errors.push(syn::Error::new_spanned(
            ty,
            "a slice has no size of its own; use `PVec<T>`, `PBox<[T]>` or an array",
        )),
        _ => {}
    }
}

/// The error for a well-known type, `None` for all others.
fn advice(path: &Path) -> Option<String> {
    let last = path.segments.last()?;
    if path.segments.len() > 1 {
        let first = &path.segments.first()?.ident;
        if !(first == "std" || first == "core" || first == "alloc") {
            return None;
        }
    }
    let name = last.ident.to_string();
    let generic = matches!(last.arguments, PathArguments::AngleBracketed(_));
    let memory = "keeps its contents in process memory, which does not survive";
    let (why, instead) = match name.as_str() {
        "String" if !generic => (memory, "use `PString`"),
        "str" => ("has no size of its own", "use `PString` or `PBox<str>`"),
        "PathBuf" | "OsString" | "CString" if !generic => (
            memory,
            "use `PString`, or `PVec<u8>` for bytes that are not UTF-8",
        ),
        "Vec" if generic => (memory, "use `PVec`"),
        "VecDeque" | "LinkedList" if generic => (memory, "use `PVecDeque`"),
        "BinaryHeap" if generic => (memory, "use `PVec` or `PBTreeSet`"),
        "Box" if generic => (memory, "use `PBox`"),
        "HashMap" if generic => (memory, "use `PHashMap`"),
        "BTreeMap" if generic => (memory, "use `PBTreeMap`"),
        "HashSet" if generic => (memory, "use `PHashSet`"),
        "BTreeSet" if generic => (memory, "use `PBTreeSet`"),
        "Rc" | "Arc" | "Weak" if generic => {
            ("counts references of this process only", "use `PShared`")
        }
        "Mutex" if generic => ("is a lock of this process only", "use `PMutex`"),
        "RwLock" if generic => ("is a lock of this process only", "use `PRwLock`"),
        "Cell" | "RefCell" | "UnsafeCell" | "OnceCell" | "OnceLock" | "LazyCell" | "LazyLock"
            if generic =>
        {
            (
                "changes behind a shared reference, where no transaction sees it",
                "use the plain value and change it through `Mut`, or `PMutex`",
            )
        }
        "AtomicBool" | "AtomicU8" | "AtomicU16" | "AtomicU32" | "AtomicU64" | "AtomicUsize"
        | "AtomicI8" | "AtomicI16" | "AtomicI32" | "AtomicI64" | "AtomicIsize" | "AtomicPtr" => (
            "changes behind a shared reference, where no transaction sees it",
            "use the plain number and change it through `Mut`, or `PAtomicU64` or one of its kin",
        ),
        "Result" if generic => (
            "is laid out as the compiler likes, and nothing tells how",
            "use an enum with `#[repr(C, u8)]`",
        ),
        "NonNull" if generic => (
            "is a raw pointer, and nothing would keep it valid after the next opening",
            "use `PBox`, or store a key",
        ),
        "Instant" if !generic => (
            "means nothing after the process has ended",
            "store nanoseconds since the Unix epoch as `u64`",
        ),
        _ => return None,
    };
    Some(format!(
        "`{name}` cannot be stored in a region: it {why}; {instead}"
    ))
}
