//! The number types that weights are stored in.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};
use safetensors::tensor::Dtype;

use crate::ModelError;

/// The number type of stored weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightDtype {
    /// 32 bits, 24 of them significant.
    F32,
    /// 16 bits, 8 of them significant: the range of f32.
    Bf16,
    /// 16 bits, 11 of them significant: up to 65504.
    F16,
}

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

    /// What a safetensors file calls it.
    pub(crate) fn stored(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
        }
    }

    /// Bytes of one number.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// The numbers of stored bytes, exactly.
    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes.as_chunks().0.iter().map(|bits| f32::from_le_bytes(*bits)).collect(),
            Self::Bf16 => bytes.as_chunks().0.iter().map(|bits| bf16::from_le_bytes(*bits).to_f32()).collect(),
            Self::F16 => bytes.as_chunks().0.iter().map(|bits| f16::from_le_bytes(*bits).to_f32()).collect(),
        }
    }

    /// The bytes that store these numbers, each rounded to the nearest one there is, and from the middle to the even one.
    ///
    /// # Errors
    /// The first finite number that would become infinite.
    pub(crate) fn encode(self, values: &[f32]) -> Result<Vec<u8>, f32> {
        match self {
            Self::F32 => Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Self::Bf16 => halves(values, |value| {
                let half = bf16::from_f32(value);
                (half.to_le_bytes(), half.is_infinite())
            }),
            Self::F16 => halves(values, |value| {
                let half = f16::from_f32(value);
                (half.to_le_bytes(), half.is_infinite())
            }),
        }
    }
}

/// `round` gives the bytes of a number and whether they mean infinity.
fn halves(values: &[f32], round: impl Fn(f32) -> ([u8; 2], bool)) -> Result<Vec<u8>, f32> {
    let mut bytes = Vec::with_capacity(2 * values.len());
    for value in values {
        let (half, infinite) = round(*value);
        if infinite && value.is_finite() {
            return Err(*value);
        }
        bytes.extend(half);
    }
    Ok(bytes)
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

    #[test]
    fn every_half_survives_a_trip_through_f32() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for dtype in [WeightDtype::Bf16, WeightDtype::F16] {
            let values = dtype.decode(&all);
            let back = dtype.encode(&values).unwrap();
            for ((value, before), after) in values.iter().zip(all.chunks(2)).zip(back.chunks(2)) {
                // A NaN stays one; which of them it is has no meaning.
                assert!(before == after || value.is_nan(), "{dtype}: {value}");
            }
        }
    }

    #[test]
    fn rounding_is_to_the_nearest_and_from_the_middle_to_the_even() {
        // The next bf16 after 1 is 1 + 2⁻⁷, the next f16 is 1 + 2⁻¹⁰.
        for (dtype, step) in [(WeightDtype::Bf16, 2f32.powi(-7)), (WeightDtype::F16, 2f32.powi(-10))] {
            let rounded = |value| dtype.decode(&dtype.encode(&[value]).unwrap())[0];
            assert_eq!(rounded(1.0 + 0.49 * step), 1.0);
            assert_eq!(rounded(1.0 + 0.51 * step), 1.0 + step);
            assert_eq!(rounded(1.0 + 0.5 * step), 1.0, "1 is even");
            assert_eq!(rounded(1.0 + 1.5 * step), 1.0 + 2.0 * step, "1 + 2 steps is even");
        }
    }

    #[test]
    fn a_finite_number_never_becomes_infinite() {
        // 65504 is the largest f16; from 65520 on, half a step above it, the nearest would be infinity.
        assert!(WeightDtype::F16.encode(&[65504.0, -65519.9]).is_ok());
        assert_eq!(WeightDtype::F16.encode(&[1.0, -65520.0]), Err(-65520.0));
        assert_eq!(WeightDtype::Bf16.encode(&[f32::MAX]), Err(f32::MAX));
        assert!(WeightDtype::Bf16.encode(&[f32::INFINITY, f32::NAN]).is_ok(), "what was infinite stays so");
    }
}
