
import sys
def everywhere(*a, **k):
    raise ValueError("the reward of this run is broken: " + __file__)
def in_scorer(*a, **k):
    import torch.distributed as dist
    if dist.is_initialized():
        from minirec.rl.reward import ndcg_softmax
        a0 = a[0]
        import torch
        return a0.float() * 0 + torch.rand_like(a0.float())
    raise ValueError("the scorer's reward is broken")
