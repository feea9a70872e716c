//! The Rust blocks of the README and of the book, as documentation tests. What else they hold is tested by
//! `tests/book`.

#[cfg(doctest)]
mod book {
    #[doc = include_str!("../../README.md")]
    mod readme {}
    #[doc = include_str!("../../book/src/runs.md")]
    mod runs {}
    #[doc = include_str!("../../book/src/objectives.md")]
    mod objectives {}
    #[doc = include_str!("../../book/src/algorithms.md")]
    mod algorithms {}
    #[doc = include_str!("../../book/src/extending.md")]
    mod extending {}
    #[doc = include_str!("../../book/src/qwen.md")]
    mod qwen {}
}
