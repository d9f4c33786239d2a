import torch

torch.set_num_threads(1)  # the same sums in the same order on every machine; and other work may have the other cores
