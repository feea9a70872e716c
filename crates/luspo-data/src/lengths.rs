use serde::Serialize;

/// The most bars of a histogram.
const BARS: usize = 12;

/// Statistics of lengths. A percentile is the smallest length that at least that share of the rows does not exceed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lengths {
    /// The shortest.
    pub min: usize,
    /// The mean.
    pub mean: f64,
    /// Half of the rows are at most this long.
    pub p50: usize,
    /// 90 % of the rows are at most this long.
    pub p90: usize,
    /// 99 % of the rows are at most this long.
    pub p99: usize,
    /// The longest.
    pub max: usize,
    /// How many rows have which length, in at most twelve bars of the same round width, from the shortest to the longest.
    pub histogram: Vec<Bar>,
}

/// A bar of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bar {
    /// Lengths of at least this.
    pub from: usize,
    /// And below this.
    pub to: usize,
    /// How many rows.
    pub rows: usize,
}

impl Lengths {
    /// Of at least one length.
    pub(crate) fn of(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let percentile = |share: usize| lengths[(lengths.len() * share).div_ceil(100) - 1];
        Self {
            min: lengths[0],
            mean: lengths.iter().sum::<usize>() as f64 / lengths.len() as f64,
            p50: percentile(50),
            p90: percentile(90),
            p99: percentile(99),
            max: lengths[lengths.len() - 1],
            histogram: histogram(&lengths),
        }
    }
}

/// Of sorted lengths.
fn histogram(lengths: &[usize]) -> Vec<Bar> {
    let (min, max) = (lengths[0], lengths[lengths.len() - 1]);
    let bars = |width: usize| max / width - min / width + 1;
    // 1, 2, 5, 10, 20, 50, …
    let widths = (0..).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_usize.saturating_pow(power)));
    let width = widths.into_iter().find(|&width| bars(width) <= BARS).unwrap_or(max);
    (min / width..=max / width)
        .map(|bar| {
            let (from, to) = (bar * width, (bar + 1) * width);
            let below = |length: usize| lengths.partition_point(|&other| other < length);
            Bar { from, to, rows: below(to) - below(from) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bars_have_round_widths() {
        let bars = Lengths::of(vec![3, 17, 18, 95]).histogram;
        assert_eq!(bars.len(), 10);
        assert_eq!(bars[1], Bar { from: 10, to: 20, rows: 2 });
        assert_eq!(Lengths::of(vec![7]).histogram, [Bar { from: 7, to: 8, rows: 1 }]);
    }

    proptest! {
        #[test]
        fn every_row_is_in_one_bar(lengths in prop::collection::vec(0usize..1_000_000_000, 1..50)) {
            let rows = lengths.len();
            let lengths = Lengths::of(lengths);
            prop_assert!(lengths.histogram.len() <= BARS);
            prop_assert_eq!(lengths.histogram.iter().map(|bar| bar.rows).sum::<usize>(), rows);
            prop_assert!(lengths.histogram[0].rows > 0 && lengths.histogram.last().unwrap().rows > 0);
        }
    }
}
