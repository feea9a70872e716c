//! Golden files as they are read, and numbers on their way to the devices and back.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use serde_json::Value;

pub type Rows = Vec<Vec<f64>>;

/// Tolerance of a loss or a gradient in f32 against the same in f64: relative and absolute.
pub const RELATIVE: f64 = 1e-5;
pub const ABSOLUTE: f64 = 1e-6;

/// The part of the golden files that the repository carries.
pub fn fixtures() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/golden").into()
}

pub fn read(folder: &Path, file: &str) -> Value {
    let path = folder.join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The backends that every check runs on.
#[allow(deprecated)] // ndarray
pub fn devices() -> [(&'static str, Device); 2] {
    [("flex", Device::flex()), ("ndarray", Device::ndarray())]
}

/// A number; what JSON cannot say (NaN, infinities) is written as a string.
pub fn number(value: &Value) -> f64 {
    match value {
        Value::String(text) => text.parse().unwrap_or_else(|_| panic!("`{text}` is no number")),
        value => value.as_f64().unwrap_or_else(|| panic!("{value} is no number")),
    }
}

pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list")).iter().map(number).collect()
}

pub fn rows(value: &Value) -> Rows {
    value.as_array().unwrap_or_else(|| panic!("{value} is no table")).iter().map(numbers).collect()
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

pub fn tensor(rows: &Rows, device: &Device) -> Tensor<2> {
    let flat: Vec<f32> = rows.iter().flatten().map(|&value| value as f32).collect();
    Tensor::<1>::from_data(flat.as_slice(), device).reshape([rows.len(), rows[0].len()])
}

pub fn values(tensor: Tensor<2>) -> Rows {
    let [_, seq] = tensor.dims();
    let flat: Vec<f64> = tensor.into_data().iter::<f64>().collect();
    flat.chunks(seq).map(<[f64]>::to_vec).collect()
}

pub fn close(got: f64, expected: f64) -> bool {
    (got - expected).abs() <= ABSOLUTE + RELATIVE * expected.abs()
}
