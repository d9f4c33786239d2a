"""What a series of sightings says an object is."""
import numpy as np


class Evidence:
    def __init__(self, classes, temperature=1.0, unknown_below=0.0):
        self.sum, self.weight = np.zeros(classes), 0.0
        self.temperature, self.unknown_below = temperature, unknown_below

    def add(self, logits, weight=1.0):
        self.sum += weight * np.asarray(logits, np.float64)
        self.weight += weight

    def name(self):
        z = self.sum / (self.weight * self.temperature)
        p = np.exp(z - z.max())
        p /= p.sum()
        best = int(p.argmax())
        return (best if p[best] >= self.unknown_below else None), float(p[best])
