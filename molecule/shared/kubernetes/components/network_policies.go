package main

import (
	"context"
	"fmt"
	"os/signal"
	"regexp"
	"sync"
	"syscall"

	"github.com/cloudnativelabs/kube-router/v2/pkg/controllers/netpol"
	"github.com/cloudnativelabs/kube-router/v2/pkg/healthcheck"
	"github.com/cloudnativelabs/kube-router/v2/pkg/options"
	"github.com/cloudnativelabs/kube-router/v2/pkg/utils"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

var chainOfPolicies = regexp.MustCompile(`^KUBE-(ROUTER|POD-FW|NWPLCY)-`)

// newPoliciesCommand returns the component that enforces NetworkPolicy objects on its node, by rules of iptables: kube-router's
// controller for them, without kube-router's other parts. It takes its rules away when it ends.
func newPoliciesCommand() *cobra.Command {
	config := options.NewKubeRouterConfig()
	config.EnableIPv4 = true
	command := &cobra.Command{
		Use:  "kube-policies",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return enforcePolicies(ctx, config)
		},
	}
	command.Flags().StringVar(&config.Kubeconfig, "kubeconfig", "", "file that says where the API server is")
	command.Flags().StringSliceVar(&config.ClusterIPCIDRs, "service-cluster-ip-range", config.ClusterIPCIDRs, "addresses of services")
	return command
}

func enforcePolicies(ctx context.Context, config *options.KubeRouterConfig) error {
	server, err := clientcmd.BuildConfigFromFlags("", config.Kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(server)
	if err != nil {
		return err
	}
	chains, sets, err := netpol.NewIPTablesHandlers(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	pods := factory.Core().V1().Pods().Informer()
	policies := factory.Networking().V1().NetworkPolicies().Informer()
	namespaces := factory.Core().V1().Namespaces().Informer()
	var setsInUse sync.Mutex
	newController := func() (*netpol.NetworkPolicyController, error) {
		return netpol.NewNetworkPolicyController(client, config, pods, policies, namespaces, &setsInUse, chains, sets)
	}
	controller, err := newController()
	if err != nil {
		return err
	}
	// One that has worked does not clean up: it adds the rules that it finds to those that it remembers.
	cleaner, err := newController()
	if err != nil {
		return err
	}
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		pods:       controller.PodEventHandler,
		policies:   controller.NetworkPolicyEventHandler,
		namespaces: controller.NamespaceEventHandler,
	} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())

	heartbeats := make(chan *healthcheck.ControllerHeartbeat)
	go tellReady(heartbeats)
	var running sync.WaitGroup
	running.Add(1)
	controller.Run(heartbeats, ctx.Done(), &running)
	running.Wait()
	cleaner.Cleanup() // which tells a failure to the log alone
	return findNone(chains[core.IPv4Protocol])
}

// tellReady tells systemd that policies are enforced: one heartbeat comes as each round over all of them begins.
func tellReady(heartbeats <-chan *healthcheck.ControllerHeartbeat) {
	for range heartbeats {
		if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
			klog.ErrorS(err, "systemd was not told")
		}
	}
}

// findNone returns an error that names a chain of policies, if one is left.
func findNone(chains utils.IPTablesHandler) error {
	left, err := chains.ListChains("filter")
	if err != nil {
		return err
	}
	for _, chain := range left {
		if chainOfPolicies.MatchString(chain) {
			return fmt.Errorf("the chain %s of iptables is left", chain)
		}
	}
	return nil
}
