//! Rows to score, as the trunk reads them: packed, without padding.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};

/// Rows to score, each a prompt and a response.
///
/// The host-side plan of who goes where: the trunk reads all but each row's last token, one row after the other without
/// padding; the head sees only the positions that predict a response token; results are spread to `[rows, seq]` over
/// response tokens again.
#[derive(Clone, Debug)]
pub struct ResponseBatch {
    lengths: Vec<usize>,
    /// Longest response.
    seq: usize,
    /// What the trunk reads, `[tokens]`.
    ids: Vec<i64>,
    /// The place of each of these in its own row.
    places: Vec<usize>,
    /// Which of these look at which.
    spans: Vec<Span>,
    /// Where each response token is predicted, as an index into `ids`, row by row.
    positions: Vec<i64>,
    /// The response tokens, in the same order.
    targets: Vec<i64>,
}

/// Tokens of one row, each of which looks at the prefix, at those before it, and at itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Earlier tokens of the row, where they belong to other rows too.
    pub(crate) prefix: Range<usize>,
    pub(crate) own: Range<usize>,
}

impl ResponseBatch {
    /// The batch of the given (prompt, response) rows, in their order.
    ///
    /// # Panics
    /// On an empty prompt (its response's first token would have no predecessor), or if no row has a response.
    pub fn new(rows: &[(&[u32], &[u32])]) -> Self {
        Self::of_groups(rows, |_, _| false)
    }

    /// The same; neighbours with equal prompts share one reading of it. The states are the same but for the order in
    /// which sums are taken.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn sharing_prompts(rows: &[(&[u32], &[u32])]) -> Self {
        Self::of_groups(rows, |one, other| one == other)
    }

    fn of_groups(rows: &[(&[u32], &[u32])], together: impl Fn(&[u32], &[u32]) -> bool) -> Self {
        assert!(rows.iter().all(|(prompt, _)| !prompt.is_empty()), "every row needs a prompt of at least one token");
        let lengths: Vec<usize> = rows.iter().map(|(_, response)| response.len()).collect();
        let seq = lengths.iter().copied().max().unwrap_or(0);
        assert!(seq > 0, "a batch needs at least one response token");
        let targets = rows.iter().flat_map(|(_, response)| *response).map(|id| i64::from(*id)).collect();
        let mut batch = Self { lengths, seq, ids: vec![], places: vec![], spans: vec![], positions: vec![], targets };
        for group in rows.chunk_by(|(one, _), (other, _)| together(one, other)) {
            match group {
                [(prompt, response)] => batch.read_alone(prompt, response),
                _ => batch.read_group(group),
            }
        }
        batch
    }

    fn read_alone(&mut self, prompt: &[u32], response: &[u32]) {
        let Some((_, read)) = response.split_last() else { return }; // nobody asks for a state of this row
        let own = self.read(prompt, 0);
        let end = self.read(read, prompt.len()).end;
        self.spans.push(Span { prefix: own.start..own.start, own: own.start..end });
        self.positions.extend((own.end - 1..end).map(|position| position as i64));
    }

    fn read_group(&mut self, group: &[(&[u32], &[u32])]) {
        if group.iter().all(|(_, response)| response.is_empty()) {
            return;
        }
        let (prompt, _) = group[0];
        let prefix = self.read(prompt, 0);
        self.spans.push(Span { prefix: prefix.start..prefix.start, own: prefix.clone() });
        for (_, response) in group {
            let Some((_, read)) = response.split_last() else { continue };
            let own = self.read(read, prompt.len());
            self.positions.push(prefix.end as i64 - 1);
            self.positions.extend(own.clone().map(|position| position as i64));
            if !own.is_empty() {
                self.spans.push(Span { prefix: prefix.clone(), own });
            }
        }
    }

    /// Appends tokens of a row from a place on; where they are now.
    fn read(&mut self, ids: &[u32], from: usize) -> Range<usize> {
        let start = self.ids.len();
        self.ids.extend(ids.iter().map(|id| i64::from(*id)));
        self.places.extend(from..from + ids.len());
        start..self.ids.len()
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.lengths.len()
    }

    /// Length of the longest response, in tokens.
    pub fn seq(&self) -> usize {
        self.seq
    }

    /// Length of each response, in tokens.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// What the trunk reads, `[tokens]`.
    pub(crate) fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// The same as a tensor.
    pub(crate) fn ids_on(&self, device: &Device) -> Tensor<1, Int> {
        index(self.ids.clone(), device)
    }

    /// The place of each of these in its own row.
    pub(crate) fn places(&self) -> &[usize] {
        &self.places
    }

    /// Which of these look at which.
    pub(crate) fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The packed response tokens.
    pub(crate) fn targets(&self) -> &[i64] {
        &self.targets
    }

    /// Where the trunk's states predict a response token, `[responses]`, as indices into what it reads.
    pub(crate) fn positions(&self, device: &Device) -> Tensor<1, Int> {
        index(self.positions.clone(), device)
    }

    /// `[rows, seq]` → `[responses, 1]`, whatever stands in the padding.
    pub(crate) fn pack_tokens(&self, values: Tensor<2>) -> Tensor<2> {
        let device = values.device();
        let slots = self.slots().map(|slot| slot as i64).collect();
        values.reshape([self.rows() * self.seq, 1]).select(0, index(slots, &device))
    }

    /// `[responses, 1]` → `[rows, seq]`, right-padded with 0.
    pub(crate) fn spread_tokens(&self, packed: Tensor<2>) -> Tensor<2> {
        let device = packed.device();
        let mut source = vec![self.targets.len() as i64; self.rows() * self.seq];
        for (token, slot) in self.slots().enumerate() {
            source[slot] = token as i64;
        }
        let with_zero = Tensor::cat(vec![packed, Tensor::zeros([1, 1], &device)], 0);
        with_zero.select(0, index(source, &device)).reshape([self.rows(), self.seq])
    }

    /// Where each packed response token stands in `[rows, seq]`.
    fn slots(&self) -> impl Iterator<Item = usize> {
        let seq = self.seq;
        self.lengths.iter().enumerate().flat_map(move |(row, length)| (0..*length).map(move |t| row * seq + t))
    }
}

pub(crate) fn index(values: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let size = values.len();
    Tensor::from_data(TensorData::new(values, [size]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Backend;

    const ROWS: [(&[u32], &[u32]); 4] = [(&[1, 2, 3], &[4]), (&[5], &[6, 7, 8]), (&[5], &[9]), (&[9, 9, 9, 9], &[])];

    fn span(prefix: Range<usize>, own: Range<usize>) -> Span {
        Span { prefix, own }
    }

    #[test]
    fn the_trunk_reads_all_but_the_last_token() {
        let batch = ResponseBatch::new(&ROWS);
        assert_eq!((batch.rows(), batch.seq(), batch.lengths()), (4, 3, &[1, 3, 1, 0][..]));
        assert_eq!(batch.ids, [1, 2, 3, 5, 6, 7, 5]);
        assert_eq!(batch.places, [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(batch.spans, [span(0..0, 0..3), span(3..3, 3..6), span(6..6, 6..7)]);
        assert_eq!(batch.positions, [2, 3, 4, 5, 6]);
        assert_eq!(batch.targets, [4, 6, 7, 8, 9]);
    }

    #[test]
    fn a_shared_prompt_is_read_once() {
        let batch = ResponseBatch::sharing_prompts(&ROWS);
        assert_eq!(batch.ids, [1, 2, 3, 5, 6, 7]);
        assert_eq!(batch.places, [0, 1, 2, 0, 1, 2]);
        assert_eq!(batch.spans, [span(0..0, 0..3), span(3..3, 3..4), span(3..4, 4..6)]);
        assert_eq!(batch.positions, [2, 3, 4, 5, 3]);
        assert_eq!(batch.targets, [4, 6, 7, 8, 9]);
    }

    #[test]
    fn packing_forgets_the_padding_and_spreading_zeroes_it() {
        let device = Backend::Flex.device().unwrap();
        let batch = ResponseBatch::new(&[(&[1, 2, 3], &[4]), (&[5], &[6, 7, 8]), (&[9, 9, 9, 9, 9], &[])]);
        let nan = f32::NAN;
        let values = Tensor::<2>::from_data([[1.0, nan, nan], [2.0, 3.0, 4.0], [nan, nan, nan]], &device);
        let packed = batch.pack_tokens(values);
        assert_eq!(packed.to_data().try_to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]);
        let spread = batch.spread_tokens(packed);
        assert_eq!(spread.to_data().try_to_vec::<f32>().unwrap(), [1.0, 0.0, 0.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0]);
    }
}
