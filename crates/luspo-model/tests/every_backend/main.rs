//! What the model computes, on each backend that [`reference::devices`] gives.

#[path = "../adapted/mod.rs"]
mod adapted;
mod lora;
mod parity;
mod policy;
#[path = "../reference/mod.rs"]
mod reference;
mod value;
mod variants;
