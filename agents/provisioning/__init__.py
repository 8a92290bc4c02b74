"""SFC provisioning by DQN over data centres, in the setting of Onsu et al. (2024)."""
