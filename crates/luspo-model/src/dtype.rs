//! The number types of weights, in files and in memory.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{DType, Device, FloatDType};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};

use crate::ModelError;

/// The number type of weights, in files and in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightDtype {
    /// 32 bits, 24 of them significant.
    #[default]
    F32,
    /// 16 bits, 8 of them significant: the range of f32.
    Bf16,
    /// 16 bits, 11 of them significant: up to 65504.
    F16,
}

/// Numbers that a thread converts at a time.
const CHUNK: usize = 1 << 16;

impl WeightDtype {
    /// What `config.json` calls it.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    /// The type of a tensor in a file, if it is read at all.
    pub(crate) fn of(stored: Dtype) -> Option<Self> {
        match stored {
            Dtype::F32 => Some(Self::F32),
            Dtype::BF16 => Some(Self::Bf16),
            Dtype::F16 => Some(Self::F16),
            _ => None,
        }
    }

    /// The type of a parameter.
    ///
    /// # Panics
    /// If a caller has made the parameters something else.
    pub(crate) fn of_tensor(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::BF16 => Self::Bf16,
            DType::F16 => Self::F16,
            other => panic!("parameters are f32, bf16 or f16, not {other:?}"),
        }
    }

    /// Whether a device computes with it.
    pub(crate) fn check_on(self, device: &Device) -> Result<(), ModelError> {
        match device.supports_dtype(DType::from(self)) {
            true => Ok(()),
            false => Err(ModelError::DtypeNotComputed { dtype: self }),
        }
    }

    /// What a safetensors file calls it.
    pub(crate) fn stored(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
        }
    }

    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// Writes the numbers of `bytes`, which are of this type, to `out` in another: each rounded to the nearest one there
    /// is, and from the middle to the even one. All threads take part.
    ///
    /// # Errors
    /// The first finite number that would become infinite; what is in `out` is then of no use.
    pub(crate) fn convert(self, bytes: &[u8], to: Self, out: &mut [u8]) -> Result<(), f32> {
        if self == to {
            bytes.par_chunks(CHUNK).zip(out.par_chunks_mut(CHUNK)).for_each(|(from, to)| to.copy_from_slice(from));
            return Ok(());
        }
        let chunks = bytes.par_chunks(CHUNK * self.size()).zip(out.par_chunks_mut(CHUNK * to.size()));
        let overflow = chunks.find_map_first(|(bytes, out)| match self {
            Self::F32 => to.encode(bytes, f32::from_le_bytes, out),
            Self::Bf16 => to.encode(bytes, |bits| bf16::from_le_bytes(bits).to_f32(), out),
            Self::F16 => to.encode(bytes, |bits| f16::from_le_bytes(bits).to_f32(), out),
        });
        overflow.map_or(Ok(()), Err)
    }

    /// One thread's part of [`convert`](Self::convert): the first finite number that would become infinite.
    fn encode<const N: usize>(self, bytes: &[u8], decode: impl Fn([u8; N]) -> f32, out: &mut [u8]) -> Option<f32> {
        match self {
            Self::F32 => each(bytes, decode, |value| (value.to_le_bytes(), value.is_infinite()), out),
            Self::Bf16 => {
                let round = |value| (bf16::from_f32(value).to_le_bytes(), bf16::from_f32(value).is_infinite());
                each(bytes, decode, round, out)
            }
            Self::F16 => {
                let round = |value| (f16::from_f32(value).to_le_bytes(), f16::from_f32(value).is_infinite());
                each(bytes, decode, round, out)
            }
        }
    }

    /// The first number that is infinite or none, of bytes that are of this type. All threads take part.
    pub(crate) fn non_finite(self, bytes: &[u8]) -> Option<f32> {
        bytes.par_chunks(CHUNK * self.size()).find_map_first(|bytes| match self {
            Self::F32 => first_not(bytes, f32::from_le_bytes, |value| value.is_finite(), |value| value),
            Self::Bf16 => first_not(bytes, bf16::from_le_bytes, bf16::is_finite, bf16::to_f32),
            Self::F16 => first_not(bytes, f16::from_le_bytes, f16::is_finite, f16::to_f32),
        })
    }
}

/// `round` gives the bytes of a number and whether they mean infinity.
fn each<const N: usize, const M: usize>(
    bytes: &[u8],
    decode: impl Fn([u8; N]) -> f32,
    round: impl Fn(f32) -> ([u8; M], bool),
    out: &mut [u8],
) -> Option<f32> {
    let mut overflow = None;
    for (bits, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        let value = decode(*bits);
        let (rounded, infinite) = round(value);
        *out = rounded;
        if infinite && value.is_finite() && overflow.is_none() {
            overflow = Some(value);
        }
    }
    overflow
}

/// Looks at all numbers before it looks for the one, which is the faster way where there is none.
fn first_not<const N: usize, T: Copy>(
    bytes: &[u8],
    decode: impl Fn([u8; N]) -> T,
    is_sound: impl Fn(T) -> bool,
    value: impl Fn(T) -> f32,
) -> Option<f32> {
    let numbers = || bytes.as_chunks().0.iter().map(|bits| decode(*bits));
    if numbers().fold(true, |all, number| all & is_sound(number)) {
        return None;
    }
    numbers().find(|number| !is_sound(*number)).map(value)
}

impl From<WeightDtype> for FloatDType {
    fn from(dtype: WeightDtype) -> Self {
        match dtype {
            WeightDtype::F32 => Self::F32,
            WeightDtype::Bf16 => Self::BF16,
            WeightDtype::F16 => Self::F16,
        }
    }
}

impl From<WeightDtype> for DType {
    fn from(dtype: WeightDtype) -> Self {
        FloatDType::from(dtype).into()
    }
}

impl fmt::Display for WeightDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

impl FromStr for WeightDtype {
    type Err = ModelError;

    /// `f32`, `bf16` or `f16`, or the names that `config.json` uses.
    fn from_str(name: &str) -> Result<Self, ModelError> {
        match name {
            "f32" | "float32" => Ok(Self::F32),
            "bf16" | "bfloat16" => Ok(Self::Bf16),
            "f16" | "float16" => Ok(Self::F16),
            _ => Err(ModelError::UnknownDtype { name: name.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(dtype: WeightDtype, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![0; bytes.len() / dtype.size() * 4];
        dtype.convert(bytes, WeightDtype::F32, &mut out).unwrap();
        out.as_chunks().0.iter().map(|bits| f32::from_le_bytes(*bits)).collect()
    }

    fn encoded(dtype: WeightDtype, values: &[f32]) -> Result<Vec<u8>, f32> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut out = vec![0; values.len() * dtype.size()];
        WeightDtype::F32.convert(&bytes, dtype, &mut out).map(|()| out)
    }

    #[test]
    fn every_half_survives_a_trip_through_f32() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for dtype in [WeightDtype::Bf16, WeightDtype::F16] {
            let values = decoded(dtype, &all);
            let back = encoded(dtype, &values).unwrap();
            for ((value, before), after) in values.iter().zip(all.chunks(2)).zip(back.chunks(2)) {
                // A NaN stays one; which of them it is has no meaning.
                assert!(before == after || value.is_nan(), "{dtype}: {value}");
            }
        }
    }

    #[test]
    fn numbers_that_keep_their_type_keep_their_bits() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for dtype in [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::F16] {
            let mut out = vec![0; all.len()];
            dtype.convert(&all, dtype, &mut out).unwrap();
            assert!(out == all, "{dtype}");
        }
    }

    #[test]
    fn rounding_is_to_the_nearest_and_from_the_middle_to_the_even() {
        // The next bf16 after 1 is 1 + 2⁻⁷, the next f16 is 1 + 2⁻¹⁰.
        for (dtype, step) in [(WeightDtype::Bf16, 2f32.powi(-7)), (WeightDtype::F16, 2f32.powi(-10))] {
            let rounded = |value| decoded(dtype, &encoded(dtype, &[value]).unwrap())[0];
            assert_eq!(rounded(1.0 + 0.49 * step), 1.0);
            assert_eq!(rounded(1.0 + 0.51 * step), 1.0 + step);
            assert_eq!(rounded(1.0 + 0.5 * step), 1.0, "1 is even");
            assert_eq!(rounded(1.0 + 1.5 * step), 1.0 + 2.0 * step, "1 + 2 steps is even");
        }
    }

    #[test]
    fn a_finite_number_never_becomes_infinite() {
        // 65504 is the largest f16; from 65520 on, half a step above it, the nearest would be infinity.
        assert!(encoded(WeightDtype::F16, &[65504.0, -65519.9]).is_ok());
        assert_eq!(encoded(WeightDtype::F16, &[1.0, -65520.0]), Err(-65520.0));
        assert_eq!(encoded(WeightDtype::Bf16, &[f32::MAX]), Err(f32::MAX));
        assert!(encoded(WeightDtype::Bf16, &[f32::INFINITY, f32::NAN]).is_ok(), "what was infinite stays so");
        // The first of many, whichever thread meets it.
        let mut values = vec![1.0; 4 * CHUNK];
        (values[CHUNK + 3], values[3 * CHUNK]) = (7e4, 8e4);
        assert_eq!(encoded(WeightDtype::F16, &values), Err(7e4));
    }

    #[test]
    fn the_first_number_that_is_none_is_found() {
        for (dtype, bad) in
            [(WeightDtype::F32, f32::NAN), (WeightDtype::Bf16, f32::INFINITY), (WeightDtype::F16, f32::NAN)]
        {
            let mut values = vec![0.5; 3 * CHUNK];
            assert_eq!(dtype.non_finite(&encoded(dtype, &values).unwrap()), None);
            (values[2 * CHUNK], values[2 * CHUNK + 5]) = (bad, f32::NEG_INFINITY);
            let found = dtype.non_finite(&encoded(dtype, &values).unwrap()).unwrap();
            assert_eq!(found.to_bits(), bad.to_bits(), "{dtype}");
        }
    }

    #[test]
    fn a_type_is_written_as_it_is_read() {
        for (dtype, name) in [(WeightDtype::F32, "f32"), (WeightDtype::Bf16, "bf16"), (WeightDtype::F16, "f16")] {
            assert_eq!(serde_json::to_value(dtype).unwrap(), name);
            assert_eq!((dtype.to_string().as_str(), name.parse::<WeightDtype>().unwrap()), (name, dtype));
            assert_eq!(WeightDtype::of_tensor(dtype.into()), dtype);
        }
    }
}
