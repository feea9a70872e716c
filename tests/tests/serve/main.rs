//! `luspo serve`: the OpenAI API, and clients that do not behave.

mod api;
mod rude;
mod server;
