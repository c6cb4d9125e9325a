//! Loops compiled for the widest vectors that the processor has.

/// A loop that gains from wide vectors. `run` and what it calls in its loops are to be `#[inline(always)]`: only then are
/// they compiled for the processor that [`dispatch`] finds.
pub(crate) trait Kernel {
    type Answer;
    fn run(self) -> Self::Answer;
}

/// Runs the kernel with the widest vectors of this processor.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Answer {
    struct Dispatched<K>(K);
    impl<K: Kernel> pulp::NullaryFnOnce for Dispatched<K> {
        type Output = K::Answer;
        #[inline(always)]
        fn call(self) -> K::Answer {
            self.0.run()
        }
    }
    pulp::Arch::new().dispatch(Dispatched(kernel))
}
