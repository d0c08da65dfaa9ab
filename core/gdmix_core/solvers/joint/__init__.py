"""All coordinates as one model: the joint Hessian's systems, solved part by part, and the variances they tell.

A *part* is a partition of a random effect, or a fixed effect. Parts meet in the rows alone: each multiplies its own
columns, home shards add the products up, and each part takes its share of the weighted sums back. So the joint
Hessian, which nobody ever forms, is multiplied by the same exchange of numbers per row that offsets use.
"""
