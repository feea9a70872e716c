//! Rows that join a batch that is being decoded.

use burn::tensor::{Tensor, s};

use super::{KeysValues, KvCache, padding_bias};
use crate::modeling::Qwen2ForCausalLM;
use crate::rope::Rope;

impl KvCache {
    /// Tokens of a row, without its padding.
    ///
    /// # Panics
    /// On a row that is not there.
    pub fn row_len(&self, row: usize) -> usize {
        self.len - self.padding[row]
    }
}

impl Qwen2ForCausalLM {
    /// One cache with the rows of all, in their order, and room for `more` further tokens a row.
    ///
    /// Padding that no row needs any longer goes. Each key and value is copied once, so that joining costs about as much
    /// as the caches are long; what a row holds does not change.
    ///
    /// # Panics
    /// On no caches.
    pub fn join_caches(&self, caches: &[KvCache], more: usize) -> KvCache {
        let first = caches.first().expect("there is a cache to join");
        let rows: usize = caches.iter().map(KvCache::rows).sum();
        let lengths = caches.iter().flat_map(|cache| (0..cache.rows()).map(|row| cache.row_len(row)));
        let len = lengths.clone().max().expect("a cache has rows");
        let padding: Vec<usize> = lengths.map(|row| len - row).collect();
        let (capacity, device) = (len + more, first.device());

        let copied = |layer: usize, part: fn(&KeysValues) -> &Tensor<4>| {
            let [_, kv_heads, _, head_dim] = part(&first.layers[layer]).dims();
            let dtype = part(&first.layers[layer]).dtype();
            let mut all = Tensor::zeros([rows, kv_heads, capacity, head_dim], (&device, dtype));
            let mut row = 0;
            for cache in caches {
                // What is older than the longest row is padding of all.
                let kept = cache.len.min(len);
                let held = part(&cache.layers[layer]).clone().slice(s![.., .., cache.len - kept..cache.len, ..]);
                let rows = row..row + cache.rows();
                all = all.slice_assign(s![rows, .., len - kept..len, ..], held);
                row += cache.rows();
            }
            all
        };
        let layers = (0..first.layers.len())
            .map(|layer| KeysValues {
                keys: copied(layer, |layer| &layer.keys),
                values: copied(layer, |layer| &layer.values),
            })
            .collect();
        let model = self.plain();
        let rope = Rope::new(capacity, model.model.head_dim(), model.model.rope_theta, &device);
        let bias = padding_bias(&padding, capacity, &device);
        KvCache { layers, padding, bias, rope, len, capacity }
    }
}
