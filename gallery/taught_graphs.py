"""A taught graph network

A teacher that chooses the hardest graphs, beside random choice on the same schedule and full training: what counts is
where each ends for the samples that it saw.
"""

# %%
from picture import save

from hardy.teach import graphs
from hardy.teach.experiment import Plan, experiment
from hardy.teach.training import Training

data = graphs.generated("graph-regression", 160, nodes=(5, 12), features=8)
plan = Plan(model="gin", selectors=("hard",), width=32, training=Training(epochs=30, batch_size=16))
report = experiment(data, plan, seeds=3)
print("\n".join(report.summary))

# %% The metric against samples seen
figure = next(figure for figure in report.figures if figure.title == "Metric against samples")
save("taught_graphs", figure)
