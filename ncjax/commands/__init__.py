"""The commands `ncjax-pretrain`, `ncjax-evaluate` and `ncjax-report`, also found as scripts in experiments/."""
