//! Panics of other people's code, turned into errors at the border.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`; a panic inside becomes its message.
///
/// For libraries that panic on input which is merely wrong, as a tokenizer file may be: there a panic is their way to
/// say no. What `f` was changing may be half changed, so that nothing of it may be used after an error. Without effect
/// where a program is built with `panic = "abort"`.
///
/// # Errors
/// What the panic says.
pub fn contain<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    let before = CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    CONTAINED.set(before);
    result.map_err(|panic| said(&*panic))
}

/// Whether a panic on this thread, now, would be [contained](contain): a program's panic hook has nothing to report
/// then.
pub fn is_contained() -> bool {
    CONTAINED.get()
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(contain(|| 7), Ok(7));
        assert_eq!(contain(|| -> () { panic!("row {}", 3) }), Err("row 3".to_string()));
        assert_eq!(contain(|| -> () { panic!("no") }), Err("no".to_string()));
        assert_eq!(contain(|| std::panic::panic_any(7)), Err("a panic without a message".to_string()));
    }

    #[test]
    fn a_hook_can_tell_a_contained_panic() {
        assert!(!is_contained());
        let inside = contain(|| {
            let nested: Result<(), _> = contain(|| panic!("inner"));
            (nested.is_err(), is_contained())
        });
        assert_eq!(inside, Ok((true, true)));
        assert!(!is_contained());
    }
}
