//! Code compiled for the widest vectors of the processor at hand.

/// Work that there is in a form for each kind of processor.
pub(super) trait Work {
    type Output;

    /// Does it. With `FUSED`, the processor adds a product in one step, which [`multiply_add`] then uses. To be marked
    /// `#[inline(always)]`, as what it calls: all else is compiled for any processor.
    fn run<const FUSED: bool>(self) -> Self::Output;
}

/// a · b + c, rounded once where the processor does that in one step.
#[inline(always)]
pub(super) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Does `work` in code compiled for the widest vectors of this processor.
#[inline(always)]
pub(super) fn in_wide_code<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
        fn avx512<W: Work>(work: W) -> W::Output {
            work.run::<true>()
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<W: Work>(work: W) -> W::Output {
            work.run::<true>()
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            let wide = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512dq");
            if wide && is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512f") {
                // SAFETY: the processor has these features.
                return unsafe { avx512(work) };
            }
            // SAFETY: the processor has these features.
            return unsafe { avx2(work) };
        }
    }
    work.run::<false>()
}

/// The same with a closure, which needs no such products.
#[inline(always)]
pub(super) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    struct Closure<F>(F);

    impl<R, F: FnOnce() -> R> Work for Closure<F> {
        type Output = R;

        #[inline(always)]
        fn run<const FUSED: bool>(self) -> R {
            self.0()
        }
    }

    in_wide_code(Closure(work))
}
