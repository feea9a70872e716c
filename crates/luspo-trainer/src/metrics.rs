//! Named numbers, in verl's names.

use serde_json::{Map, Value};

/// The metrics of one step, in the order in which they were set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    values: Vec<(String, f64)>,
}

impl Metrics {
    /// The metrics of `step`.
    pub fn of_step(step: usize) -> Self {
        let mut metrics = Self::default();
        metrics.set("step", step as f64);
        metrics
    }

    /// Sets a metric, replacing an earlier value of that name.
    pub fn set(&mut self, name: impl Into<String>, value: f64) {
        let name = name.into();
        match self.values.iter_mut().find(|(n, _)| *n == name) {
            Some(entry) => entry.1 = value,
            None => self.values.push((name, value)),
        }
    }

    /// Sets `{name}/mean`, `{name}/max` and `{name}/min`; nothing when there are no values.
    pub fn set_summary(&mut self, name: &str, values: &[f64]) {
        if values.is_empty() {
            return;
        }
        self.set(format!("{name}/mean"), mean(values));
        self.set(format!("{name}/max"), values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        self.set(format!("{name}/min"), values.iter().copied().fold(f64::INFINITY, f64::min));
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: Metrics) {
        for (name, value) in other.values {
            self.set(name, value);
        }
    }

    /// The metric of that name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(n, _)| n == name).map(|(_, value)| *value)
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.values.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// One JSON object. A number that is not finite becomes `null`; whole numbers have no fraction.
    pub fn to_json(&self) -> Value {
        let object: Map<String, Value> = self.iter().map(|(name, value)| (name.to_string(), number(value))).collect();
        Value::Object(object)
    }
}

fn number(value: f64) -> Value {
    // Up to 2^53 every whole f64 is an exact integer.
    if value.fract() == 0.0 && value.abs() < 9e15 { Value::from(value as i64) } else { Value::from(value) }
}

/// The mean; NaN of nothing.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_json_object_in_order() {
        let mut metrics = Metrics::of_step(3);
        metrics.set_summary("response_length", &[1.0, 2.0]);
        metrics.set("bad", f64::NAN);
        assert_eq!(
            metrics.to_json().to_string(),
            "{\"step\":3,\"response_length/mean\":1.5,\"response_length/max\":2,\"response_length/min\":1,\"bad\":null}"
        );
    }
}
