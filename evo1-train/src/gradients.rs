//! Gradients of several batches: their sum, in one process and over all ranks.

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{DType, Device, Tensor},
};

use crate::{Group, Result, group::PairwiseSum};

/// Values of gradients that go through the group at a time: 64 MiB.
const BUCKET: usize = 16 << 20;

/// The sum of some batches' gradients, made in pairs.
#[derive(Default)]
pub(crate) struct GradientSum(PairwiseSum<GradientsParams>);

impl GradientSum {
    /// Adds the gradients of one batch.
    pub(crate) fn push<M: Module>(&mut self, gradients: GradientsParams, module: &M) {
        self.0.push(gradients, |sum, term| added(sum, term, module));
    }

    /// The sum, with which it begins anew.
    pub(crate) fn take<M: Module>(&mut self, module: &M) -> GradientsParams {
        let total = std::mem::take(&mut self.0).total(|sum, term| added(sum, term, module));
        total.unwrap_or_default()
    }
}

fn added<M: Module>(sum: GradientsParams, term: GradientsParams, module: &M) -> GradientsParams {
    let mut accumulator = GradientsAccumulator::new();
    accumulator.accumulate(module, sum);
    accumulator.accumulate(module, term);
    accumulator.grads()
}

/// For each parameter of a module, in its order, whether there is a gradient.
pub(crate) fn presence<M: Module>(gradients: &GradientsParams, module: &M) -> Vec<bool> {
    struct Presence<'a>(&'a GradientsParams, Vec<bool>);
    impl ModuleVisitor for Presence<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.push(self.0.get::<D>(param.id).is_some());
        }
    }
    let mut presence = Presence(gradients, Vec::new());
    module.visit(&mut presence);
    presence.1
}

/// The sum of the gradients of all ranks. `present` says which parameters have one on any rank: those that have none here
/// count as zeros.
///
/// # Errors
/// When the device failed to compute them, or a rank is gone.
pub(crate) fn reduced<M: Module>(
    gradients: GradientsParams,
    module: &M,
    present: &[bool],
    group: &dyn Group,
    device: &Device,
) -> Result<GradientsParams> {
    let (bucket, sums) = (Bucket::default(), Ok(Vec::new()));
    let mut flattener = Flattener { gradients, present: present.iter(), group, device, bucket, sums };
    module.visit(&mut flattener);
    let mut sums = flattener.sums?;
    if flattener.bucket.values > 0 {
        sums.push(flattener.bucket.summed(group)?);
    }
    let mut unflattener = Unflattener { sums, present: present.iter(), bucket: 0, at: 0, to: GradientsParams::new() };
    module.visit(&mut unflattener);
    Ok(unflattener.to)
}

/// Gradients that are summed at once.
#[derive(Default)]
struct Bucket {
    flat: Vec<Tensor<1>>,
    values: usize,
}

impl Bucket {
    /// The sums over all ranks, with which it begins anew.
    fn summed(&mut self, group: &dyn Group) -> Result<Tensor<1>> {
        let Self { flat, .. } = std::mem::take(self);
        group.sum_on_device(Tensor::cat(flat, 0))
    }
}

struct Flattener<'a> {
    gradients: GradientsParams,
    present: std::slice::Iter<'a, bool>,
    group: &'a dyn Group,
    device: &'a Device,
    bucket: Bucket,
    /// The sums of the buckets that were full.
    sums: Result<Vec<Tensor<1>>>,
}

impl ModuleVisitor for Flattener<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Self { gradients, present, group, device, bucket, sums } = self;
        let (true, Ok(done)) = (present.next().copied().unwrap_or(false), &mut *sums) else { return };
        let values = param.lazy_shape().num_elements();
        let gradient = gradients.remove::<D>(param.id).map(|gradient| gradient.reshape([values]));
        bucket.flat.push(gradient.unwrap_or_else(|| Tensor::zeros([values], (*device, DType::F32))));
        bucket.values += values;
        if bucket.values >= BUCKET {
            match bucket.summed(*group) {
                Ok(sum) => done.push(sum),
                Err(error) => *sums = Err(error),
            }
        }
    }
}

/// Makes gradients of the sums of buckets, in the order in which they were filled.
struct Unflattener<'a> {
    sums: Vec<Tensor<1>>,
    present: std::slice::Iter<'a, bool>,
    bucket: usize,
    at: usize,
    to: GradientsParams,
}

impl ModuleVisitor for Unflattener<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.present.next().copied().unwrap_or(false) {
            return;
        }
        let shape = param.lazy_shape();
        if self.at == self.sums[self.bucket].shape().num_elements() {
            (self.bucket, self.at) = (self.bucket + 1, 0);
        }
        let end = self.at + shape.num_elements();
        let gradient = self.sums[self.bucket].clone().slice(self.at..end).reshape::<D, _>(shape);
        self.at = end;
        self.to.register(param.id, gradient);
    }
}
